from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/probe.smk"
include: "rules/scores.smk"
include: "rules/allocation.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/report.smk"
include: "rules/diagnose.smk"


# Seconds each, so on a cluster they run beside Snakemake itself and not as jobs.
localrules:
    benchmark,
    allocation,
    metrics,
    figure2,
    table1,
    report_index,
    diagnose_model,
    stage_model,
    stage_data,


rule all:
    default_target: True
    input:
        rules.report_index.output,
        rules.report_index.input.figure2,
        rules.report_index.input.table1,


rule probe:
    input:
        [
            plan.dumps(placed.model, placed.probe, placed.criterion)
            for placed in plan.allocations.values()
        ],


rule allocations:
    input:
        [f"results/allocation/{name}.json" for name in plan.allocations],


rule train:
    input:
        plan.trainable_files(),


rule evaluate:
    input:
        plan.metrics_files(),


rule diagnose:
    input:
        plan.diagnose_files(),


rule contamination:
    input:
        plan.overlap_files(),


rule stage:
    input:
        plan.staged_files(),
