"""Allocations as the rules name them: which scores are ranked, and how much goes to full fine-tuning."""

from dataclasses import dataclass

from hybrid_lora.config.settings import RESULTS


@dataclass(frozen=True)
class Allocation:
    """unit: `allocation.unit`; amount: the budget in that unit."""

    model: str
    probe: str
    criterion: str
    unit: str
    amount: float | int

    @property
    def name(self):
        """{model}.{probe}.{criterion}.{unit}-{ratio}; amounts that differ have different names."""
        short = f"{self.amount:g}"
        exact = short if float(short) == self.amount and "e+" not in short else str(self.amount)
        return f"{self.model}.{self.probe}.{self.criterion}.{self.unit}-{exact}"

    @property
    def path(self):
        """The allocation file."""
        return f"{RESULTS}/allocation/{self.name}.json"

    @property
    def scores(self):
        """The score file behind it."""
        return f"{RESULTS}/scores/{self.model}/{self.probe}/{self.criterion}.parquet"
