"""Where the bundle to serve is: by path, by a run's name, or the newest. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from distributed_fmlp.errors import BundleError, RunError
from distributed_fmlp.run_directory import load_run, newest_finished_run

REFERENCE = Path("reference")


def find_bundle(given: str | None, results: Path) -> str:
    """The bundle that a path, URI or run's name means; with none, the newest finished run's.

    Without any run it is the reference run's. Raises `BundleError` when there is nothing to serve.
    """
    if given is None:
        return str(_newest(results).absolute())
    if "://" in given:
        return given
    try:
        return _on_disk(given, results)
    except OSError as error:  # too long for a file's name, or in a directory that is closed to us
        raise BundleError(
            f"{given} can't be read ({error.strerror}); name a bundle or a run that this user may "
            "read"
        ) from error


def _on_disk(given: str, results: Path) -> str:
    for path in (Path(given), results / given):
        if (path / "manifest.json").is_file():
            return str(path.absolute())
        if (path / "run.json").is_file():
            load_run(path)  # refuses what is damaged or from a newer program
            if not (path / "bundle" / "manifest.json").is_file():
                raise BundleError(
                    f"run {path} has no bundle yet: let it finish (python -m distributed_fmlp.tune "
                    f"--resume {path.name})"
                )
            return str((path / "bundle").absolute())
    raise BundleError(
        f"{given} is neither a bundle nor a run, nor the name of one in {results}; name a "
        "directory with manifest.json or run.json"
    )


def _newest(results: Path) -> Path:
    try:
        newest = newest_finished_run(results) / "bundle"
    except RunError as error:
        newest = results / REFERENCE / "bundle"
        if not (newest / "manifest.json").is_file():
            raise BundleError(
                f"nothing to serve: no run in {results} has finished; train one with python -m "
                "distributed_fmlp.tune, or name a bundle"
            ) from error
    return newest
