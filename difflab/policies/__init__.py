"""Policies against collapse, or for it: one small file each, combined in the list `policies` of a config.

    policies:
      - {policy: best_of, k: 4, reward: class_confidence}
      - {policy: guard, max_synthetic_fraction: 0.5}

A policy is a frozen spec: its fields are its settings, its methods are hooks. It acts in every hook that it
overrides. Policies that share a hook act in the order of the list. To add a policy, put a `Policy` under
``@policy("name")`` into a file in the folder of its stage (`mix`, `train`, `sample`, `select`).
"""

from difflab.config.policy_registry import KNOWN, known, policy
from difflab.config.policy_registry import parse_policy as parse
from difflab.policies.hooks import HOOKS, acting, check
from difflab.policies.interface import At, Policy

__all__ = ["HOOKS", "KNOWN", "At", "Policy", "acting", "check", "known", "parse", "policy"]
