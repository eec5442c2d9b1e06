"""The results of `report diagnose` as CSV (every number, unrounded) and as Markdown with notes in plain words."""

import csv
import io

from hybrid_lora.report import agreement, amounts

COLUMNS = (
    *("part", "criterion", "first", "second", "statistic", "value", "low", "high"),
    *("modules", "distinct_scores", "undefined_resamples", "full_first", "full_second", "by_chance"),
)
AGAINST = ("P", "|P|")
NAMES = {"seeds": "seed {}", "partitions": "K = {}"}


def table(result, settings):
    """CSV text: one line a statistic; value is empty where it is undefined.

    low and high: the 95 % bootstrap interval of a correlation with P or |P|; lowest and highest of `all pairs` of seeds.
    full_first, full_second: modules in full fine-tuning; by_chance: about the Jaccard index of random sets of these sizes.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in _rows(result):
        writer.writerow({**{key: "" if value is None else value for key, value in row.items()}, "modules": result["modules"]})
    return text.getvalue()


def _rows(result):
    for entry in result["correlations"]:
        for against in AGAINST:
            found = entry[against]
            numbers = {key: found[key] for key in ("value", "low", "high")}
            names = {"part": "perturbation", "criterion": entry["criterion"], "second": against, "statistic": "spearman"}
            yield {**names, **numbers, "distinct_scores": entry["distinct"], "undefined_resamples": found["undefined"]}
    for entry in result["stability"]:
        for part in ("seeds", "partitions"):
            for pair in entry[part]:
                names = {"part": part, "criterion": entry["criterion"]}
                names |= {side: NAMES[part].format(pair[side]) for side in ("first", "second")}
                yield {**names, "statistic": "spearman", "value": pair["spearman"]}
                sizes = {"full_first": pair["sizes"][0], "full_second": pair["sizes"][1], "by_chance": pair["chance"]}
                yield {**names, "statistic": "jaccard", "value": pair["jaccard"], **sizes}
        for statistic in ("spearman", "jaccard") if entry["seeds"] else ():
            mean, low, high = agreement.spread([pair[statistic] for pair in entry["seeds"]])
            names = {"part": "seeds", "criterion": entry["criterion"], "first": "all pairs"}
            yield {**names, "statistic": statistic, "value": mean, "low": low, "high": high}


def page(result, settings):
    """Markdown text: three tables, each with what its numbers mean."""
    budget = amounts.budget(settings["ratio"], settings["unit"])
    lines = [f"# Is the score any good? {settings['model']}, probe {settings['probe']}", ""]
    lines += [f"{result['modules']} candidate modules. Budget of full fine-tuning: {budget}.", ""]
    lines += ["## Does a criterion order modules as their exact removal does?", "", *_correlation_table(result), ""]
    lines += [*_correlation_notes(result, settings), ""]
    lines += ["## Does another warm-up seed give the same allocation?", "", *_seed_table(result), ""]
    lines += ["## Does a smaller K give the same allocation?", "", *_partition_table(result), ""]
    return "\n".join([*lines, *_stability_notes(result, settings, budget)]) + "\n"


def _line(*cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def number(value):
    """A correlation or index with two digits, 'undefined' for None."""
    return "undefined" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def _range(value, low, high):
    return number(value) if low is None else f"{number(value)} [{number(low)}, {number(high)}]"


def _correlation_table(result):
    lines = [_line("Criterion", "with P [95 %]", "", "with |P| [95 %]", "", "Distinct scores")]
    lines += [_line(":--", "--:", ":--", "--:", ":--", "--:")]
    for entry in result["correlations"]:
        cells = [entry["criterion"]]
        for against in AGAINST:
            found = entry[against]
            cells += [_range(found["value"], found["low"], found["high"]), _reading(found)]
        lines.append(_line(*cells, entry["distinct"]))
    return lines


def _reading(found):
    if found["value"] is None:
        return f"all modules have the same {'P' if found['constant'] == 'P' else 'score'}"
    if found["low"] is None:
        return "no interval"
    if found["low"] > 0:
        return "alike"
    return "opposed" if found["high"] < 0 else "not told from chance"


def _correlation_notes(result, settings):
    found = [entry[against] for entry in result["correlations"] for against in AGAINST]
    undefined = max((one["undefined"] for one in found if one["value"] is not None), default=0)
    notes = [
        f"P (Eq. 9) is the rise of the validation loss when one module's branch is removed, the mean over {result['batches']} "
        f"batches. It is signed, and |P| is its magnitude, which is what the Hybrid-Score measures: P is negative for "
        f"{result['negative']} of {result['modules']} modules here, whose removal lowers the loss.",
        f"The numbers are Spearman rank correlations over n = {result['modules']} modules, ties by mean rank. +1: the criterion "
        f"sends modules to full fine-tuning in the order of P (or |P|), lowest first; 0: no relation; -1: in the reverse order.",
        f"In brackets: 95 % bootstrap interval over modules ({settings['bootstrap']} resamples). It counts modules as "
        f"independent, which neighbours in one network are not, and leaves out the noise of P itself: take it as a lower "
        f"limit of the uncertainty. *Alike*, *opposed*: the interval lies above or below 0; no correction is made for the "
        f"number of criteria.",
    ]
    if undefined:
        notes.append(f"In up to {undefined} resamples all values were equal; they have no correlation and were left out.")
    return [f"- {note}" for note in notes]


def _seed_table(result):
    rows = [entry for entry in result["stability"] if entry["seeds"]]
    if not rows:
        return ["Not asked for: it takes a criterion and two seeds."]
    lines = [_line("Criterion", "Seeds", "Pairs", "Rank correlation of scores", "Jaccard index", "By chance", "Modules in full")]
    lines += [_line(":--", ":--", "--:", "--:", "--:", "--:", ":--")]
    for entry in rows:
        found = entry["seeds"]
        names = dict.fromkeys(pair[side] for pair in found for side in ("first", "second"))
        sizes = dict.fromkeys(size for pair in found for size in pair["sizes"])
        spreads = [agreement.spread([pair[key] for pair in found]) for key in ("spearman", "jaccard")]
        shown = [_range(*spread) if len(found) > 1 else number(spread[0]) for spread in spreads]
        chance = number(agreement.spread([pair["chance"] for pair in found])[0])
        full = " to ".join(map(str, dict.fromkeys((min(sizes), max(sizes)))))
        lines.append(_line(entry["criterion"], ", ".join(map(str, names)), len(found), *shown, chance, full))
    return lines


def _partition_table(result):
    if not any(entry["partitions"] for entry in result["stability"]):
        return ["Not asked for: it takes a criterion that is computed from partitions, and two K."]
    lines = [_line("Criterion", "K", "Rank correlation of scores", "Jaccard index", "By chance", "Modules in full")]
    lines += [_line(":--", ":--", "--:", "--:", "--:", ":--")]
    for entry in result["stability"]:
        for pair in entry["partitions"]:
            names = f"{pair['first']} with {pair['second']}"
            numbers = [number(pair[key]) for key in ("spearman", "jaccard", "chance")]
            lines.append(_line(entry["criterion"], names, *numbers, "{} with {}".format(*pair["sizes"])))
    return lines


def _stability_notes(result, settings, budget):
    notes = [
        f"*Rank correlation*: Spearman's, of the scores of all {result['modules']} modules. *Jaccard index*: of the two sets of "
        f"modules that a budget of {budget} sends to full fine-tuning, those in both over those in either; 1: the same set, "
        f"0: none in common. Undefined where the budget holds no module.",
        "*By chance*: about the Jaccard index of two random sets of these sizes.",
        f"Over seeds: the mean over all pairs of seeds, in brackets the lowest and the highest pair, at the probe's own "
        f"K = {settings['partitions']}. A seed draws the branches and the order of the warm-up's data; validation batches and "
        f"partitions stay the same.",
        "Over K: the first K validation batches against the largest K, which contains them. What is missing to 1 is "
        "the noise of few batches; it tends to 0 as K nears the largest, whatever the score is worth.",
    ]
    return [f"- {note}" for note in notes]
