"""Where runs are read from: an MLflow database, or a tracking server. What both give is the same."""

from analysis.stores.store import Store


def store_at(uri: str) -> Store:
    """The store at an address: `http...` is a tracking server, all else a database."""
    if uri.startswith("http"):
        from analysis.stores.server import ServerStore

        return ServerStore(uri)
    from analysis.stores.sql import SqlStore

    return SqlStore(uri)
