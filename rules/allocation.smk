rule allocation:
    input:
        scores=lambda w: plan.every_allocation[w.allocation].scores,
        modules=lambda w: f"results/models/{plan.every_allocation[w.allocation].model}/modules.json",
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


rule budgets:
    input:
        code=code("allocation.budgets"),
    output:
        csv="results/report/budgets.csv",
        md="results/report/budgets.md",
    log:
        "results/logs/report/budgets.log",
    benchmark:
        "results/benchmarks/report/budgets.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=plan.budgets(),
    message:
        "tunable parameters of budgets at the paper's sizes"
    shell:
        "python -m hybrid_lora.allocation budgets --csv {output.csv} --md {output.md} --settings {params.settings:q} > {log} 2>&1"
