"""What all measurements over validation batches share: which rows are batch t, and a chunk that resumes after a kill.

Batch t depends on the validation rows and t alone, so a chunk can be computed anywhere and the number of batches can
grow. A chunk is always computed whole; the scores stage reads the batches it wants.
"""

import contextlib
import os

import pyarrow as pa
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.contracts import corpus, tables
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import batches, load


def numbers(settings, chunk):
    """The batches of a chunk, counted from 0."""
    first = chunk * settings["batches_per_chunk"]
    return range(first, first + settings["batches_per_chunk"])


def validation_rows(val, settings, last, keys):
    """The validation rows in order of id; UserError if they do not fill batches 0..last. keys: of the batches' number."""
    rows = sorted(corpus.read(val), key=lambda row: row["id"])
    needed = (last + 1) * settings["batch_size"]
    if len(rows) < needed:
        raise UserError(
            f"{val}: {len(rows)} rows; batches up to {last + 1} of {settings['batch_size']} need {needed} "
            f"(raise corpora.*.validation_rows, or lower {keys} or batch_size)"
        )
    return rows


def batch_of(rows, t, words, settings, where):
    """Validation batch t on the device, as batches.collate gives it."""
    chosen = rows[t * settings["batch_size"] : (t + 1) * settings["batch_size"]]
    encoded = [batches.encode(words, row["messages"], settings["max_length"]) for row in chosen]
    if all(prompt >= len(ids) for ids, prompt in encoded):
        raise UserError(f"{where}: batch {t} has no target token within max_length {settings['max_length']}")
    return batches.collate(encoded, words.pad_token_id, load.device())


def collect(what, wanted, work, schema, one, show):
    """One table of all batches in `wanted`; finished batches are kept in the folder `work` and read back.

    one(t) starts batch t and returns a function that gives its table; that is called when the next batch has been
    started, so a GPU need not wait in between. show: column whose first value is printed with the progress.
    """
    kept = {t: work / f"batch-{t}.parquet" for t in wanted}
    todo = [t for t in wanted if not kept[t].exists()]
    if len(todo) < len(kept):
        print(f"{what}: {len(kept) - len(todo)} of {len(kept)} batches were finished before", flush=True)
    progress = Progress(what, len(kept), start=len(kept) - len(todo))
    started = []
    for t in [*todo, None]:
        if t is not None:
            started.append((t, one(t)))
        while len(started) > (t is not None):
            done, finish = started.pop(0)
            table = finish()
            tables.write(kept[done], table, schema)
            progress.step(**{show: table[show][0].as_py()})
    return pa.concat_tables([tables.read(kept[t], schema, what) for t in wanted])


def identity(model_folder):
    """The model's {id, revision, architecture_sha256}, which dumps carry so that they are never mixed."""
    return modules_file.read(model_folder / "modules.json")["model"]


@contextlib.contextmanager
def deterministic():
    """The same bits on every run, on a GPU too: attention's backward pass sums in a fixed order there.

    cuDNN's attention comes first because its fixed order costs least; what it does not support goes to the others.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor once more
    attention = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    try:
        with sdpa_kernel(attention, set_priority=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
