"Image tokenizers that understand images. What is asked for is imported when it is asked for."
__version__ = "0.1.0"

_PLACES = dict(Tokenizer='pretrained', load_images='data', load_proposal='proposals')
__all__ = [*_PLACES]

def __getattr__(name): # from iutok import Tokenizer
    if name not in _PLACES: raise AttributeError(f"module 'iutok' has no attribute '{name}'")
    from importlib import import_module
    return getattr(import_module(f'iutok.{_PLACES[name]}'), name)

def __dir__(): return sorted({*globals(), *_PLACES})
