"""Pictures and data sets, as plain torch Datasets: nothing here knows a network or a trainer.

`images` is the one codec file; `MVTec` and `Folder` read pictures of good and bad parts,
`open_dataset` picks between them, `collate` makes batches; `defects` paints defects onto good
pictures; `synthetic` makes parts that never existed. A new data set is one more file that turns
a folder into `inspection.Record`s.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.folder import Folder
    from data.inspection import collate
    from data.mvtec import MVTec
    from data.opening import open_dataset

__all__ = ["Folder", "MVTec", "collate", "open_dataset"]

_HOMES = {
    "Folder": "data.folder",
    "MVTec": "data.mvtec",
    "collate": "data.inspection",
    "open_dataset": "data.opening",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the codec and the part generator must not wait for torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
