"""Formats of benchmarks, what kind of answer each has, and their published versions; light, for the configuration's checks."""

KINDS = {"math-500": "math", "aime": "math", "mmlu-pro": "choice", "gpqa": "choice", "leetcode": "code"}
# Published versions and their numbers of problems; LeetCodeDataset's are its test split unless they say otherwise.
VERSIONS = {
    "math-500": {"math-500": 500},
    "aime": {"2024": 30, "2025": 30},
    "mmlu-pro": {"test": 12032, "validation": 70},
    "gpqa": {"diamond": 198, "main": 448, "extended": 546},
    "leetcode": dict(
        **{"v0.3.1": 228, "v0.3.0": 386, "v0.2.0": 200, "v0.1.0": 175},
        **{"v0.3.1-train": 2641, "v0.3.0-train": 2386, "v0.2.0-train": 1890, "v0.1.0-train": 1570},
    ),
}
# kind -> the keys of config `grading` that judge it
GRADING = {
    "math": ("math_timeout_s",),
    "choice": (),
    "code": ("sandbox", "program_timeout_s", "program_memory_mb"),
}
# source of a corpus row -> the kinds by which a reward may judge it
JUDGED = {"math": ("math",), "science": ("math", "choice"), "code": ("math", "code")}
