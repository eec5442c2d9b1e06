"""Write a policy as a folder for other tools: the adapter copied, or a plain model with the adapter merged (Section 3.4).

Merging is PEFT's, in float32 (in bfloat16 it drifts), rounded to the wanted dtype once. Tied embeddings stay tied.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import check_writable, read_json, sha256_file, write_json, write_text
from hybrid_lora.contracts import base_model, metrics, model_card

ENTRY = "hybrid_lora.export.folder"
RESULTS = Path("results")
NEEDED = ("settings", "base", "data", "placement", "trainable", "selected_step", "outputs")


def run(arguments):
    """arguments: name (of a run) or policy (folder), model, out, merged, dtype, license; see the command's help."""
    policy = arguments.policy or RESULTS / "training" / arguments.name / "policy"
    about = _about(policy, arguments.name)
    _check_free(arguments.out)
    _check_whole(policy, about)
    adapter = (policy / "adapter_config.json").is_file()
    kind = ("merged" if arguments.merged else "adapter") if adapter else "full"
    if kind == "adapter" and arguments.dtype:
        raise UserError("--dtype: an adapter keeps its float32 weights; give --merged too, or leave --dtype away")
    model = _base(arguments.model, policy, about) if adapter else None
    card = model_card.text(kind, about, _results(about["settings"]["run"], policy), arguments.license)
    check_writable(arguments.out.parent)
    temporary = Path(tempfile.mkdtemp(dir=arguments.out.parent, prefix=f".{arguments.out.name}.", suffix=".tmp"))
    try:
        if kind == "adapter":
            _copy(policy, temporary)
        else:
            _plain(model, policy, temporary, arguments.dtype or "float32")
        write_text(temporary / model_card.NAME, card)
        _describe(temporary, kind, arguments, policy, about)
        temporary.chmod(0o755)
        temporary.replace(arguments.out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = sorted(arguments.out.iterdir())
    size = sum(file.stat().st_size for file in files)
    print(f"{arguments.out}: {model_card.KINDS[kind][2]}, {len(files)} files, {size / 1e6:,.1f} MB", file=sys.stderr)


def _about(policy, name):
    """The policy's manifest; UserError where there is no trained policy."""
    if not (policy / "manifest.json").is_file():
        trained = sorted(path.parent.parent.name for path in RESULTS.glob("training/*/policy/manifest.json"))
        known = f"; trained here: {', '.join(trained)}" if name and trained else ""
        raise UserError(f"{policy}: no trained policy (manifest.json is missing){known}")
    about = read_json(policy / "manifest.json")
    missing = [key for key in NEEDED if key not in about]
    if missing:
        raise UserError(
            f"{policy / 'manifest.json'}: key '{missing[0]}' is missing; not a policy of this version's training stage"
        )
    return about


def _check_free(out):
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: exists; nothing is overwritten, give --out another name")
    if out.is_symlink() or out.resolve() == Path.cwd():
        raise UserError(f"{out}: is a link or the current folder, which cannot be replaced; give --out another name")


def _check_whole(policy, about):
    """UserError where the policy is damaged: a copy of it would be, too, and merging would end in a traceback."""
    for name, sha in about["outputs"].items():
        if name.endswith(".safetensors") and sha256_file(policy / name) != sha:
            raise UserError(f"{policy / name}: damaged, its SHA-256 is not the one in manifest.json; copy it anew or train again")
        if name == "adapter_config.json":
            read_json(policy / name)


def _base(given, policy, about):
    """Folder of the base model: the one given, else where the policy was trained from; checked to hold the same weights."""
    if given is None:
        given = next((Path(path).parent for path in about["inputs"].get("model", {})), None)
    if given is None or not (given / "config.json").is_file():
        raise UserError(f"{given or policy}: not the folder of the base model {about['base']['id']}; give it with --model")
    base_model.check_same(given, about["base"], policy)
    return given


def _results(run, policy):
    """Metrics records of the run, with `benchmark`, in the order of names: those of this very policy."""
    files = sorted((RESULTS / "evaluation" / run).glob("*/metrics.json"))
    sha = sha256_file(policy / "manifest.json")
    others = [file.parent.name for file in files if _evaluated(file.parent) != sha]
    if others:
        print(f"left out of the card: {run} on {', '.join(others)}, not sampled from {policy}", file=sys.stderr)
        files = [file for file in files if file.parent.name not in others]
    return [{"benchmark": file.parent.name, **metrics.read(file)} for file in files]


def _evaluated(folder):
    """SHA-256 of the manifest of the policy that the completions in a folder of evaluation were sampled from, or None."""
    try:
        (sha,) = read_json(folder / "completions.parquet.manifest.json")["inputs"]["policy"].values()
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return sha


def _copy(policy, folder):
    for file in policy.iterdir():
        if file.is_file() and file.name != "manifest.json":
            shutil.copyfile(file, folder / file.name)


def _plain(model, policy, folder, dtype):
    from hybrid_lora.modeling import hybrid, load

    merged = hybrid.load_policy(model, policy, dtype)
    merged.config.dtype = load.DTYPES[dtype]
    merged.save_pretrained(folder)
    for file in base_model.license_files(policy) + base_model.processor_files(model or policy):
        shutil.copyfile(file, folder / file.name)
    load.tokenizer(model or policy).save_pretrained(folder)  # an adapter's folder has no config.json to find it by


def _describe(folder, kind, arguments, policy, about):
    """manifest.json: what was exported from which policy, without paths of this machine."""
    settings = {"run": about["settings"]["run"], "kind": kind, "dtype": arguments.dtype or "float32"}
    found = {"base": about["base"], "policy_manifest_sha256": sha256_file(policy / "manifest.json")}
    files = sorted(folder.iterdir())
    write_json(folder / "manifest.json", manifest.describe("export.folder", settings, {}, code.sources(ENTRY), files, **found))
