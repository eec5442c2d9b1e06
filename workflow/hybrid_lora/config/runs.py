"""The runs table (sample sheet): tab-separated, one line = one trained and evaluated model."""

from dataclasses import dataclass

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import words
from hybrid_lora.config.schema import NAME, NAME_RULE

COLUMNS = ("run", "model", "method", "objective", "budget", "seed")
NONE = ("-", "none")


@dataclass(frozen=True)
class Run:
    """One line. objective: None for an untrained run; budget: in `allocation.unit`, None for a method without a criterion."""

    run: str
    model: str
    method: str
    objective: str | None
    budget: float | int | None
    seed: int


@dataclass(frozen=True)
class Row:
    """A Run and where it stands, for messages."""

    run: Run
    where: str

    def error(self, column, what):
        """UserError that names file, line and column."""
        return UserError(f"{self.where}: {column}: {what}")


def read(values, base, origin):
    """The rows of the table at `values["runs"]`, each cell of the right kind; names are not looked up here."""
    name = values["runs"]
    path = base / name
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        raise origin.error(("runs",), f"no such file: {name}") from None
    except UnicodeDecodeError:
        raise origin.error(("runs",), f"{name} is not a text file in UTF-8") from None
    numbered = [(i, line.split("\t")) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise UserError(f"{name}: empty; the first line names the columns {', '.join(COLUMNS)}")
    header = [cell.strip() for cell in numbered[0][1]]
    _check_header(f"{name}:{numbered[0][0]}", header)
    rows = [_row(f"{name}:{i}", header, cells, values["allocation"]["unit"]) for i, cells in numbered[1:]]
    if not rows:
        raise UserError(f"{name}: no runs; add a line under the header")
    seen = {}
    for row in rows:
        if row.run.run in seen:
            raise row.error("run", f"'{row.run.run}' is used twice, first in line {seen[row.run.run]}; names must differ")
        seen[row.run.run] = row.where.rpartition(":")[2]
    return rows


def _check_header(where, header):
    if len(header) == 1:
        raise UserError(f"{where}: one column; columns are separated by tabs: {', '.join(COLUMNS)}")
    for name in header:
        if name not in COLUMNS:
            raise UserError(f"{where}: unknown column '{name}'; allowed: {', '.join(COLUMNS)}{words.meant(name, COLUMNS)}")
        if header.count(name) > 1:
            raise UserError(f"{where}: column '{name}' stands twice")
    for name in COLUMNS:
        if name not in header:
            raise UserError(f"{where}: column '{name}' is missing; columns are {', '.join(COLUMNS)}")


def _row(where, header, cells, unit):
    if len(cells) != len(header):
        raise UserError(f"{where}: {len(cells)} cells, the header has {len(header)}; one tab between cells, '-' for none")
    cell = {name: text.strip() for name, text in zip(header, cells)}
    for name in COLUMNS:
        if not cell[name]:
            raise UserError(f"{where}: {name}: empty; write '-' for none")
    if not NAME.fullmatch(cell["run"]):
        raise UserError(f"{where}: run: '{cell['run']}' is no name; {NAME_RULE}")
    objective = None if cell["objective"] in NONE else cell["objective"]
    budget = _budget(where, cell["budget"], unit)
    return Row(Run(cell["run"], cell["model"], cell["method"], objective, budget, _seed(where, cell["seed"])), where)


def _budget(where, text, unit):
    if text in NONE:
        return None
    if unit == "absolute":
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise UserError(
                f"{where}: budget: '{text}' is no number of parameters; allowed: 1 or more (allocation.unit is {unit})"
            )
        return int(text)
    try:
        ratio = float(text)
    except ValueError:
        raise UserError(f"{where}: budget: '{text}' is no number; allowed: a share above 0 and at most 1, or '-'") from None
    if not 0 < ratio <= 1:
        raise UserError(f"{where}: budget: {text} is no share; allowed: above 0 and at most 1 (allocation.unit is {unit})")
    return ratio


def _seed(where, text):
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{where}: seed: '{text}' is no whole number; allowed: 0, 1, 2, ...")
    return int(text)
