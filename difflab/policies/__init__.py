"""Policies: everything that is done against collapse or for it. One small file per policy, combined in a config's list `policies`.

    policies:
      - {policy: best_of, k: 4, reward: class_confidence}
      - {policy: guard, max_synthetic_fraction: 0.5}

A policy is a frozen spec (its fields are its settings) whose methods are hooks. It acts at every hook that it overrides.
Policies that share a hook act in the order of the list. To add a policy, put a file into the folder of the stage in which
it acts (`mix`, `train`, `sample`, `select`), with a `Policy` under ``@policy("name")``. Nothing else changes.
"""

from difflab.config.policy_registry import KNOWN, known, policy
from difflab.config.policy_registry import parse_policy as parse
from difflab.policies.hooks import HOOKS, acting, check
from difflab.policies.interface import At, Policy

__all__ = ["HOOKS", "KNOWN", "At", "Policy", "acting", "check", "known", "parse", "policy"]
