"""Probes derived from an entry of config `probes` by one setting, named after it: `default+seed1`, `default+k5`.

`+seedN`: the warm-up's seed is N, so it has a warm-up and dumps of its own. `+kN`: N partitions instead of the entry's; all
else is equal, so it has no files of its own but scores, which read the entry's dumps.
"""

import re

# suffix -> (section, key) of the setting
SETTINGS = {"seed": ("warmup", "seed"), "k": ("sensitivity", "partitions")}
NAME = re.compile(r"(.+)\+(seed|k)(0|[1-9]\d*)")


def name(base, probes, suffix, number):
    """The probe that is entry `base` with the setting of `suffix` at `number`: the entry itself where that is its own."""
    section, key = SETTINGS[suffix]
    return base if probes[base][section][key] == number else f"{base}+{suffix}{number}"


def entry(wanted, probes):
    """The settings of a probe, derived or not, as an entry of `probes`; KeyError on a name that is neither."""
    base, suffix, number = _split(wanted, probes)
    found = probes[base]
    if suffix is None:
        return found
    section, key = SETTINGS[suffix]
    return {**found, section: {**found[section], key: number}}


def measured(wanted, probes):
    """The probe whose folder holds the warm-up and the dumps of `wanted`."""
    base, suffix, _ = _split(wanted, probes)
    return base if suffix == "k" else wanted


def _split(wanted, probes):
    """(name of the entry, suffix, number); suffix and number are None where `wanted` is an entry itself."""
    found = None if wanted in probes else NAME.fullmatch(wanted)
    return (found[1], found[2], int(found[3])) if found else (wanted, None, None)
