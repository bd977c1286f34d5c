"""What the command `upres` runs first: it lets Python find upres's modules, and no other's.

Nothing but the standard library's least is imported here, and this module's name is unlikely to
be anyone else's: `flows`, `pipeline` and `models` are not.
"""

import os
import sys


def main() -> None:
    """Run the command line; see `flows.cli`."""
    _prefer_own_modules()
    _check_own_modules()
    from flows.cli import main

    main()


def _prefer_own_modules() -> None:
    """Look for modules where upres is installed, and only then where PYTHONPATH says.

    Folders on PYTHONPATH are for other programs as well: a package `models` or a file `random.py`
    there, or libraries for another Python, must not take the place of upres's own. Processes that
    are started from here look nowhere else, above all not in the working folder.
    """
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is large.
    named = os.environ.pop("PYTHONPATH", "").split(os.pathsep)
    foreign = {os.path.abspath(path) for path in named if path} - {here}  # noqa: PTH100
    last = [path for path in sys.path if path in foreign]
    sys.path[:] = [path for path in sys.path if path not in foreign]
    if here not in sys.path:
        sys.path.insert(0, here)
    sys.path += last
    # Multiprocessing hands `sys.path` down; others start with what Python has by itself.
    os.environ["PYTHONSAFEPATH"] = "1"


def _check_own_modules() -> None:
    """End with one line where another package would still be imported for one of upres's own."""
    from importlib.util import find_spec

    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    for name in ("flows", "pipeline", "models"):
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or [spec.origin]) if spec else []
        own = os.path.join(here, name)  # noqa: PTH118
        if [os.path.realpath(place or "") for place in places] != [os.path.realpath(own)]:
            sys.exit(
                f"upres: Python finds {name!r} at {', '.join(map(str, places)) or 'no place'}, "
                f"expected {own}; remove or rename that, or install upres in an environment of "
                "its own"
            )
