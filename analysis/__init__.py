"""Reads runs from MLflow into frames, and makes tables, figures and reports from them. Never imports torch."""
