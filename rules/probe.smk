rule warmup:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: f"results/data/{plan.values['probes'][w.probe]['corpus']}/train.parquet",
        code=code("probe.warmup"),
    output:
        "results/probe/{model}/{probe}/warmup/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.warmup.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.warmup.tsv"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.warmup(w.probe),
    message:
        "warm-up of probe {wildcards.probe} on {wildcards.model} (progress in {log})"
    shell:
        "python -m hybrid_lora.probe warmup --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/warmup --state results/.state/probe/{wildcards.model}.{wildcards.probe} --settings {params.settings:q} > {log} 2>&1"


rule sensitivity:
    input:
        model="results/models/{model}/manifest.json",
        warmup="results/probe/{model}/{probe}/warmup/manifest.json",
        val=lambda w: f"results/data/{plan.values['probes'][w.probe]['corpus']}/val.parquet",
        code=code("probe.sensitivity"),
    output:
        "results/probe/{model}/{probe}/sensitivity/chunk-{chunk}.parquet",
    log:
        "results/logs/probe/{model}.{probe}.sensitivity-{chunk}.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.sensitivity-{chunk}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.sensitivity(w.probe),
    message:
        "sensitivities of {wildcards.model}, probe {wildcards.probe}, chunk {wildcards.chunk}"
    shell:
        "python -m hybrid_lora.probe sensitivity --model {input.model} --warmup {input.warmup} --val {input.val} --chunk {wildcards.chunk} --out {output} --settings {params.settings:q} > {log} 2>&1"
