"""What `finetune` and `train` print at the end: the figure, how sure it is, where the run lies, what to type next (light)."""

import shlex
from typing import Any

from resnet_cli.cli import console
from resnet_cli.data.contents import kind_of
from resnet_cli.progress import how_long

_SHOWN = 40  # classes that the table lists


def print_result(result: dict[str, Any]) -> None:
    """Print the JSON contract of `finetune` and `train` for a person."""
    split = "test" if "test" in result else "val"
    headline = result[split]
    low, high = headline["top1_interval"]
    table = console.Table("class", "images", "accuracy")
    classes = headline["classes"]
    if len(classes) > _SHOWN:  # the most frequent ones
        classes = sorted(classes, key=lambda each: -each["count"])[:_SHOWN]
    for each in classes:
        table.add_row(console.escape(each["class"]), str(each["count"]), f"{each['recall']:.1%}" if each["count"] else "-")
    console.out.print(table)
    if left := len(headline["classes"]) - len(classes):
        console.out.print(f"and {left} more classes in the report")
    console.out.print(
        f"[bold]{kind_of(split)} accuracy {headline['top1']:.1%}[/]"
        f"  (95 % interval {low:.1%} to {high:.1%}, {headline['count']} images)"
    )
    if "test" in result and result["test"] != result["val"]:
        console.out.print(f"validation accuracy {result['val']['top1']:.1%} ({result['val']['count']} images)")
    kept = f"epoch {result['best_epoch']} of {result['epochs']}"
    if result.get("kept") == "tail":
        kept = f"{kept} (the head alone: {result['head_top1']:.1%})"
    elif result.get("kept") == "head":
        kept = f"the head alone, {kept}" if result["epochs"] > 1 else "the head alone"
    console.out.print(f"kept: {kept}, the best one" if result["epochs"] > 1 else f"kept: {kept}")
    if result.get("fine_tuning") == "skipped":
        console.out.print("fine-tuning: skipped, the head left nothing to gain in validation")
    elif result.get("fine_tuning") == "no time":
        console.out.print("fine-tuning: left out, the time limit was too short for it")
    elif result.get("fine_tuning") == "stopped early":
        console.out.print(f"fine-tuning: stopped after {result['fine_tuning_epochs']} epochs, for lack of further gain")
    if warnings := len(result["warnings"]):
        console.out.print(f"[yellow]{warnings} {'warning' if warnings == 1 else 'warnings'}[/], see above or the report")
    run = shlex.quote(result["run"])
    console.out.print(f"run {console.escape(result['run'])}  ({how_long(result['seconds'])}), report: report.html in it")
    console.out.print(
        f"next: [bold]resnet predict image.jpg --run {console.escape(run)}[/]\n"
        f"      [bold]resnet evaluate --run {console.escape(run)}[/]"
    )


def print_search(result: dict[str, Any]) -> None:
    """Print what a range test of the learning rate came to."""
    if result["suggested"] is None:
        console.out.print("[bold]no rate is suggested[/]: the loss fell nowhere clearly")
    else:
        console.out.print(f"[bold]suggested: --learning-rate {result['suggested']:g}[/]")
    console.out.print(f"plot: {console.escape(result['plot'])}; figures: rate.csv beside it")
