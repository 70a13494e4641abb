"""What a study's runs say: table.md, verdict.md, figures and a row of the index.

    python -m experiments.report

writes all of it anew from the runs that are recorded, of every study, and from the
index the section of the checkout's README.md that tells of the finished ones.
"""

import argparse
import datetime
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import table
from experiments import checks, scores, statistics
from experiments.analysis import Analysis, Pair, analyse
from experiments.statistics import LEVEL
from experiments.store import FOLDER, Store, locked
from experiments.study import Study, load, paths

INDEX = Path(__file__).parent / "README.md"
README = INDEX.parents[1] / "README.md"
BEGIN = "<!-- Of experiments/README.md, by `python -m experiments.report`. -->\n"
END = "<!-- End of the studies. -->\n"
SECONDS = "s, fastest run"
HEADER = "| question | file | verdict | commit |\n| --- | --- | --- | --- |\n"


def points(value: float, sign: bool = False) -> str:
    """0.0312 -> '3.1' or '+3.1': points of 100."""
    return f"{100 * value:{'+' if sign else ''}.1f}"


# Of docs/statistics.md, last table.
FEW = (
    "In simulations with 3 seeds and 4 comparisons 6 to 10 % of studies without any "
    "difference find one. "
)


def probability(p: float) -> str:
    """As a paper prints it."""
    return "p < 0.001" if p < 0.001 else f"p = {small(p)}"


def small(p: float) -> str:
    """In a table. How far below 0.001 it is, three seeds cannot tell."""
    if p < 0.001:
        return "<0.001"
    # 0.0499 is no 0.05: the verdict depends on the side.
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))


def sentence(pair: Pair, metric: str) -> str:
    """The verdict on a comparison, in plain words."""
    found = pair.found
    p = probability(pair.adjusted)
    if pair.sure:
        better, worse, bounds = pair.first, pair.second, (found.low, found.high)
        if found.effect < 0:
            better, worse, bounds = worse, better, (-found.high, -found.low)
        low, high = map(points, bounds)
        return (
            f"**{better} is better than {worse}** by {points(abs(found.effect))} "
            f"points of {metric}, 95 % interval {low} to {high}, {p}."
        )
    return (
        f"**Cannot tell {pair.first} from {pair.second}**: they differ by "
        f"{points(found.effect, True)} points of {metric}, 95 % interval "
        f"{points(found.low, True)} to {points(found.high, True)}, {p}. A true "
        f"difference of {points(found.detectable)} points would have been found in "
        f"{100 * statistics.POWER:.0f} % of such studies."
    )


def verdict(analysis: Analysis) -> str:
    """verdict.md."""
    study = analysis.study
    total, done = len(study.runs), len(analysis.runs)
    lines = [f"# {study.question}", "", f"Expected beforehand: {study.hypothesis}", ""]
    if done < total:
        lines += [f"**Not finished: {done} of {total} runs.**", ""]
    lines += [
        f"- {sentence(pair, scores.title(study.primary))}" for pair in analysis.pairs
    ]
    if analysis.pairs:
        lines += [
            "",
            f"{len(study.seeds)} seeds, the same for all; t tests on differences per "
            "seed with images and seeds as sources of chance. Intervals are each "
            "comparison's own; p is after Holm for "
            f"{len(analysis.pairs)} comparisons, so an interval may leave out 0 where "
            "the verdict is 'cannot tell' ([how](../../../docs/statistics.md)). "
            f"{FEW * (len(study.seeds) < 5)}All numbers: [table.md](table.md).",
        ]
    return "\n".join(lines) + "\n"


def _scores(analysis: Analysis) -> str:
    rows = []
    for name, variant in analysis.variants.items():
        spread = variant.spread
        changed = analysis.study.variants[name]
        rows.append(
            (
                f"`{name}`",
                "<br>".join(f"`{k}={v}`" for k, v in changed.items()) or "the base",
                points(spread.mean if spread else variant.values[0]),
                f"{points(spread.sd)}" if spread else "",
                f"{points(spread.low)} to {points(spread.high)}" if spread else "",
                " ".join(points(value) for value in variant.values),
                f"{variant.cost['parameters'] / 1e6:.2f}",
                f"{variant.cost['macs'] / 1e9:.2f}",
                f"{variant.cost['seconds']:.0f}",
            )
        )
    header = ("variant", "changes", "mean", "SD", "95 %", "seeds")
    return table((*header, "M parameters", "GMACs", SECONDS), rows)


def _comparisons(analysis: Analysis) -> str:
    rows = []
    for pair in analysis.pairs:
        found, (low, high) = pair.found, pair.bootstrap
        rows.append(
            (
                f"{pair.first} - {pair.second}",
                points(found.effect, True),
                f"{points(found.low, True)} to {points(found.high, True)}",
                small(found.p),
                small(pair.adjusted),
                points(found.detectable),
                f"{points(found.seed_sd)} : {points(found.image_sd)}",
                f"{found.df:.1f}",
                f"{points(low, True)} to {points(high, True)}",
            )
        )
    header = ("difference", "effect", "95 %", "p", "p (Holm)", "detectable")
    return table((*header, "SD by seeds : by images", "df", "bootstrap"), rows)


def _classes(analysis: Analysis) -> str:
    names = list(next(iter(analysis.variants.values())).per_class)
    return table(
        ("IoU", *(name.replace("_", " ") for name in names)),
        [
            (
                f"`{v}`",
                *("-" if x is None else points(x) for x in row.per_class.values()),
            )
            for v, row in analysis.variants.items()
        ],
    )


def without_times(text: str) -> str:
    """Of table.md what has to come out again whenever the runs do.

    Without the paragraph that tells when and where, and the column of seconds.
    """
    parts = [part for part in text.split("\n\n") if not part.startswith("By `python ")]
    rows = [part.splitlines() for part in parts]
    for part in rows:
        if part and part[0].endswith(f"| {SECONDS} |"):
            part[:] = [line.rsplit("|", 2)[0] for line in part]
    return "\n\n".join("\n".join(part) for part in rows)


def results(analysis: Analysis) -> str:
    """table.md."""
    study = analysis.study
    parts = [f"# {study.question}", _origin(analysis)]
    if analysis.variants:
        parts += [
            f"{scores.title(study.primary)} in points, of the last state of each run:",
            _scores(analysis),
        ]
    if analysis.pairs:
        parts += [
            "Differences in points. *detectable*: what such a study would find in 80 % "
            "of cases. *bootstrap*: percentiles over images and seeds; with so few "
            "seeds they are too narrow ([statistics](../../../docs/statistics.md)).",
            _comparisons(analysis),
        ]
    if analysis.variants:
        parts += ["Mean over seeds per class:", _classes(analysis)]
    return "\n\n".join(parts) + "\n"


def commits(runs: Mapping[Any, Mapping[str, Any]]) -> str:
    """The commits that runs were made at, in their order; + where files were changed.

    Each finished run may be committed by itself, so of many only the ends are told.
    """
    found: dict[str, None] = {}
    for line in runs.values():
        git = line["environment"]["git"] or {}
        found[(git.get("commit") or "")[:7] + "+" * bool(git.get("dirty"))] = None
    listed = [f"`{commit}`" if commit else "an unknown commit" for commit in found]
    if len(listed) <= 3:
        return ", ".join(listed)
    return f"{listed[0]} to {listed[-1]} ({len(listed)} commits)"


def _origin(analysis: Analysis) -> str:
    command = f"`python -m experiments.run experiments/{analysis.study.name}.py`"
    if not analysis.runs:
        return f"By {command}: no run yet."
    environments = [line["environment"] for line in analysis.runs.values()]
    places = {checks.place(environment) for environment in environments}
    other = sorted({text for line in analysis.runs.values() for text in line["lock"]})
    hours = sum(line["seconds"] for line in analysis.runs.values()) / 3600
    days = sorted(
        {
            datetime.datetime.fromisoformat(line["finished"]).date().isoformat()
            for line in analysis.runs.values()
        }
    )
    versions = (
        f"versions other than requirements.lock's: {'; '.join(other)}"
        if other
        else "versions as in requirements.lock"
    )
    return (
        f"By {command} at {commits(analysis.runs)} on {' and '.join(sorted(places))}; "
        f"{versions}; "
        f"{len(analysis.runs)} of {len(analysis.study.runs)} runs, {hours:.1f} hours, "
        f"{' to '.join(days[:: max(len(days) - 1, 1)])}."
        f"{checks.repeated(analysis.checks)}"
    )


def short(analysis: Analysis) -> str:
    """The verdict in the index."""
    study = analysis.study
    total, done = len(study.runs), len(analysis.runs)
    told = [
        f"{pair.first} - {pair.second}: {points(pair.found.effect, True)} "
        f"[{points(pair.found.low, True)}, {points(pair.found.high, True)}]"
        + ("" if pair.sure else ", cannot tell")
        for pair in analysis.pairs
    ]
    if told and study.primary != "miou":
        told.insert(0, scores.title(study.primary))
    if done < total:
        told.insert(0, f"{done} of {total} runs" if done else "not run yet")
    return "; ".join(told)


def index(rows: Sequence[tuple[Study, str, str]], text: str) -> str:
    """The text of experiments/README.md with these rows written anew.

    Raises:
      ValueError: it has no table.
    """
    if HEADER not in text:
        raise ValueError(
            f"{INDEX} has no table; it begins with {HEADER.splitlines()[0]}"
        )
    head, tail = text.split(HEADER)
    lines = [line for line in tail.splitlines() if line.startswith("|")]
    after = tail.removeprefix("".join(f"{line}\n" for line in lines))
    kept = {re.findall(r"\]\((\w+)\.py\)", line)[0]: line for line in lines}
    for study, told, made_at in rows:
        link = f"[{study.name}]({study.name}.py)"
        if made_at:
            told = f"[{told}](results/{study.name}/verdict.md)"
        kept[study.name] = f"| {study.question} | {link} | {told} | {made_at} |"
    return head + HEADER + "".join(f"{kept[n]}\n" for n in sorted(kept)) + after


def section(index_text: str) -> str:
    """README's lines about the studies that the index says are finished."""
    row = re.compile(
        r"\| (?P<question>[^|]+) \| \[(?P<name>\w+)\]\(\w+\.py\) \| "
        r"\[(?P<told>.+)\]\((?P<link>results/[^|)]+)\) \| (?P<commit>[^|]+) \|$"
    )
    found = [row.match(line) for line in index_text.split(HEADER)[-1].splitlines()]
    rows = [
        (
            m["question"],
            f"[{m['told']}](experiments/{m['link']})",
            f"`python -m experiments.run experiments/{m['name']}.py`",
            m["commit"],
        )
        for m in found
        if m is not None and not re.match(r"\d+ of \d+ runs", m["told"])
    ]
    if not rows:
        return "No study is finished yet.\n"
    header = ("question", "difference in points [95 %]", "command", "commit")
    return table(header, rows) + "\n"


def readme(index_text: str, text: str) -> str:
    """README.md's text with the section of the studies written anew.

    Raises:
      ValueError: it does not have the two marks around it.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} lacks the line {BEGIN.strip()} or {END.strip()}")
    return f"{head}{begin}\n{section(index_text)}\n{end}{tail}"


def write(study: Study, store: Store, index_file: Path | None = None) -> Analysis:
    """All files about a study, from the runs that there are; the index where it is.

    Results elsewhere than in experiments/results do not touch the index.
    """
    analysis, index_file = analyse(study, store), index_file or INDEX
    if analysis.runs:
        from experiments import figures

        (store.folder / "table.md").write_text(results(analysis))
        (store.folder / "verdict.md").write_text(verdict(analysis))
        figures.draw(analysis, store.folder)
    if store.folder.parent == index_file.parent / "results":
        row = (study, short(analysis), commits(analysis.runs))
        with locked(index_file.with_name(".lock")):  # another study may write its row
            index_file.write_text(index([row], index_file.read_text()))
    return analysis


def main() -> int:
    """Write everything anew."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="table.md, verdict.md, figures of all studies, index and README.md",
    )
    parser.parse_args()
    try:
        for path in paths():
            made = load(path)
            write(made, Store(FOLDER / made.name))
        README.write_text(readme(INDEX.read_text(), README.read_text()))
    except (ValueError, OSError) as error:
        print(f"experiments.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
