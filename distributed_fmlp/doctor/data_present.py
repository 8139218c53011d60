"""Whether FashionMNIST is where a sweep would read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distributed_fmlp.data import VariableError, load_dataset
from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.download import UnreachableError
from distributed_fmlp.errors import DataError


def check_data(data_dir: str | None, nodes: Sequence[ExaminedNode] = ()) -> list[Finding]:
    """Read and verify the data set on this machine; the other nodes get it from here."""
    try:
        data = load_dataset(
            "fashion-mnist", None if data_dir is None else Path(data_dir), may_download=False
        )
    except UnreachableError:
        pass
    except VariableError as error:
        return [failed("data", error.what, error.advice)]
    except DataError as error:
        if error.__cause__ is None or not isinstance(error.__cause__, UnreachableError):
            return [failed("data", str(error), "mend it, or delete it to have it downloaded")]
    else:
        rest = ", sent from here to every node once" if len(nodes) > 1 else ""
        return [ok("data", f"FashionMNIST, whole, in {data.location}{rest}")]
    elsewhere = sorted({node.name for node in nodes if node.facts.get("data")})
    where = f"; it is on {', '.join(elsewhere)}" if elsewhere else ""
    return [
        note(
            "data",
            f"FashionMNIST is not on this machine{where}",
            "a sweep started here downloads it (30 MB), or takes digits where it can't; start it "
            "where the data is, or give --data-dir",
        )
    ]
