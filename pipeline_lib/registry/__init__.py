"""MLflow's model registry: versions by reference with their lineage, a model card, promotion by rule.

Apart from `pipeline_lib.tracking`, which only watches stages: this is the work of `register_models`, so DVC runs that
stage again when the rule changes.
"""
