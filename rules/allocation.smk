rule allocation:
    input:
        scores=lambda w: plan.allocation_scores(w.allocation),
        modules=lambda w: f"results/models/{plan.allocations[w.allocation].model}/modules.json",
        code=code("allocation.select"),
    output:
        "results/allocation/{allocation}.json",
    log:
        "results/logs/allocation/{allocation}.log",
    benchmark:
        "results/benchmarks/allocation/{allocation}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.allocation(w.allocation),
    message:
        "allocation {wildcards.allocation}"
    shell:
        "python -m hybrid_lora.allocation select --scores {input.scores} --modules {input.modules} --out {output} --settings {params.settings:q} > {log} 2>&1"
