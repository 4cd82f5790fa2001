"The clone's own files, for tests."
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).parents[1]

def script(name):
    "The Python of scripts/NAME as a module, loaded and not run."
    loader = SourceFileLoader(name, str(ROOT/'scripts'/name))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module
