"""What reads: runs in MLflow -> frames -> tables, figures, report. Never imports torch."""
