"Build file: everything it says is read from settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read(Path(__file__).with_name('settings.ini'), encoding='utf8')
cfg = ini['DEFAULT']
req = lambda key: cfg[key].split()

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license=cfg['license'].upper(),
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['iutok', 'iutok.*']),
    package_data={'iutok':['py.typed', 'assets/*', 'assets/teachers/*', 'assets/teachers/*/*',
                           'assets/pretrained/*/*/*']},
    python_requires=f">={cfg['min_python']}", install_requires=req('requirements'),
    extras_require={k:req(f'{k}_requirements') for k in ('dev', 'bench', 't2i', 'report', 'judges', 'teachers')},
    entry_points=dict(console_scripts=[cfg['console_scripts']]),
    license_files=['LICENSE', 'iutok/assets/*.LICENSE.txt', 'iutok/assets/LICENCES.txt'],
    zip_safe=False,
)
