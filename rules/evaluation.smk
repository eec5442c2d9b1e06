rule completions:
    input:
        model=lambda w: f"results/models/{plan.runs[w.run].model}/manifest.json",
        policy=lambda w: plan.run_policy(w.run),
        problems=ancient("results/data/benchmarks/{benchmark}.parquet"),
        manifests=manifests("results/data/benchmarks/{benchmark}.parquet"),
        code=lambda w: code("evaluation.complete", plan.completions(w.run, w.benchmark)),
    output:
        out="results/evaluation/{run}/{benchmark}/completions.parquet",
        manifests=manifests("results/evaluation/{run}/{benchmark}/completions.parquet"),
    log:
        "results/logs/evaluation/{run}.{benchmark}.completions.log",
    benchmark:
        "results/benchmarks/evaluation/{run}.{benchmark}.completions.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.completions(w.run, w.benchmark),
    message:
        "completions of {wildcards.run} on {wildcards.benchmark}"
    shell:
        "python -m hybrid_lora.evaluation complete --model {input.model} --policy {input.policy} --benchmark {input.problems} --out {output.out} --state results/.state/evaluation/{wildcards.run}.{wildcards.benchmark} --settings {params.settings:q} > {log} 2>&1"


rule grades:
    input:
        completions=ancient("results/evaluation/{run}/{benchmark}/completions.parquet"),
        problems=ancient("results/data/benchmarks/{benchmark}.parquet"),
        manifests=manifests(
            "results/evaluation/{run}/{benchmark}/completions.parquet",
            "results/data/benchmarks/{benchmark}.parquet",
        ),
        code=lambda w: code("evaluation.grade", plan.grading(w.benchmark)),
    output:
        out="results/evaluation/{run}/{benchmark}/grades.parquet",
        manifests=manifests("results/evaluation/{run}/{benchmark}/grades.parquet"),
    log:
        "results/logs/evaluation/{run}.{benchmark}.grades.log",
    benchmark:
        "results/benchmarks/evaluation/{run}.{benchmark}.grades.tsv"
    conda:
        environment
    threads: lambda w: plan.grading_threads(w.benchmark)
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.grading(w.benchmark),
    message:
        "grades of {wildcards.run} on {wildcards.benchmark}"
    shell:
        "python -m hybrid_lora.evaluation grade --completions {input.completions} --benchmark {input.problems} --out {output.out} --workers {threads} --settings {params.settings:q} > {log} 2>&1"


rule metrics:
    input:
        completions=ancient("results/evaluation/{run}/{benchmark}/completions.parquet"),
        grades=ancient("results/evaluation/{run}/{benchmark}/grades.parquet"),
        problems=ancient("results/data/benchmarks/{benchmark}.parquet"),
        manifests=manifests(
            "results/evaluation/{run}/{benchmark}/completions.parquet",
            "results/evaluation/{run}/{benchmark}/grades.parquet",
            "results/data/benchmarks/{benchmark}.parquet",
        ),
        code=code("evaluation.metrics"),
    output:
        "results/evaluation/{run}/{benchmark}/metrics.json",
    log:
        "results/logs/evaluation/{run}.{benchmark}.metrics.log",
    benchmark:
        "results/benchmarks/evaluation/{run}.{benchmark}.metrics.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.metrics(w.benchmark),
    message:
        "metrics of {wildcards.run} on {wildcards.benchmark}"
    shell:
        "python -m hybrid_lora.evaluation metrics --grades {input.grades} --completions {input.completions} --benchmark {input.problems} --out {output} --settings {params.settings:q} > {log} 2>&1"
