"""Policies that prevent collapse or cause it.

Each is one small file. The list `policies` of a config combines them.

    policies:
      - {policy: best_of, k: 4, reward: class_confidence}
      - {policy: guard, max_synthetic_fraction: 0.5}

A policy is a frozen spec: its fields are its settings and its methods are hooks. It acts in every hook that
it overrides. Policies that share a hook act in the order of the list. To add a policy, write a subclass of
`Policy`, decorate it with ``@policy("name")`` and put its file into the folder of its stage (`mix`, `train`,
`sample`, `select`).
"""

from difflab.config.policy_registry import KNOWN, known, policy
from difflab.config.policy_registry import parse_policy as parse
from difflab.policies.hooks import HOOKS, acting, check
from difflab.policies.interface import At, Policy

__all__ = ["HOOKS", "KNOWN", "At", "Policy", "acting", "check", "known", "parse", "policy"]
