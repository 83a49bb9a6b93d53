"""Which layers a method could adapt: said when the target modules of a plan match none of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from engine.issues import Issue, PlanError, nearest
from engine.plan import Plan

MOST_NAMED = 12


def explained(plan: Plan, error: PlanError) -> PlanError:
    """The error, whose issue on `target_modules` names the layers that there are; any other error stays as it is."""
    if not any(issue.field == "target_modules" for issue in error.issues):
        return error
    names = linear_names(plan)
    return PlanError([_with_names(plan, issue, names) if issue.field == "target_modules" else issue for issue in error.issues])


def linear_names(plan: Plan) -> list[str]:
    """The last names of the model's linear layers, each once, in the order of the model: ["q_proj", "k_proj", ...]."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from engine.modeling import build

    bare = build.build_bare(plan, build.load_config(plan))
    kinds = (torch.nn.Linear, Conv1D)
    return list(dict.fromkeys(name.split(".")[-1] for name, module in bare.named_modules() if isinstance(module, kinds)))


def _with_names(plan: Plan, issue: Issue, names: Iterable[str]) -> Issue:
    """The issue with the nearest right name of each wrong one, and with the names that there are."""
    names = list(names)
    wanted = plan.method_options.get("target_modules") or []
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    meant = [nearest(name, names) for name in wanted if name not in names]
    hint = next((one for one in meant if one.startswith("Did you mean")), "")
    listed = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    fix = f"{hint} This model has {listed}; all-linear takes them all." if names else "This model has no linear layers."
    return dataclasses.replace(issue, fix=fix.strip())
