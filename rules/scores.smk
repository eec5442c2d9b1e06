rule scores:
    input:
        modules="results/models/{model}/modules.json",
        dumps=lambda w: heavy(plan.dumps(w.model, w.probe, w.criterion)),
        manifests=lambda w: manifests(*plan.dumps(w.model, w.probe, w.criterion)),
        measured_on=lambda w: plan.measured_on(w.model, w.probe, w.criterion),
        code=code("scores.aggregate"),
    output:
        "results/scores/{model}/{probe}/{criterion}.parquet",
    log:
        "results/logs/scores/{model}.{probe}.{criterion}.log",
    benchmark:
        "results/benchmarks/scores/{model}.{probe}.{criterion}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 20 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.scores(w.model, w.probe, w.criterion),
    message:
        "scores by {wildcards.criterion} for {wildcards.model}, probe {wildcards.probe}"
    shell:
        "python -m hybrid_lora.scores aggregate --modules {input.modules} --dumps {input.dumps} --measured-on {input.measured_on} --out {output} --settings {params.settings:q} > {log} 2>&1"
