"""One module per family of encoders: what the contract tests need to know of it.

PARAMETERS  {name: parameters of the reference's classifier with 1000 classes}
SMALL       {name: fields that make the encoder tiny while every kind of block, branch
            and parameter remains}
SIZES       optional: function (h, w, stride) -> size of a map; default ceil division
"""

import importlib
import pkgutil


def _collect(attribute, default=None):
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found[info.name] = getattr(module, attribute, default)
    return found


PARAMETERS = {
    k: v for table in _collect("PARAMETERS").values() for k, v in table.items()
}
SMALL = {k: v for table in _collect("SMALL").values() for k, v in table.items()}


def _ceil(height, width, stride):
    return -(-height // stride), -(-width // stride)


def map_size(encoder, height, width, stride):
    """Height and width of the encoder's map at a stride."""
    for family, table in _collect("PARAMETERS").items():
        if encoder in table:
            return (_collect("SIZES", _ceil)[family])(height, width, stride)
    raise KeyError(encoder)
