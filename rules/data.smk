rule corpus:
    input:
        source=lambda w: ancient(plan.local_source("corpora", w.corpus)),
        benchmarks=lambda w: ancient(plan.corpus_benchmarks(w.corpus)),
        manifests=lambda w: manifests(*plan.corpus_benchmarks(w.corpus)),
        code=code("data.corpus"),
    output:
        train="results/data/{corpus}/train.parquet",
        val="results/data/{corpus}/val.parquet",
        manifests=manifests(
            "results/data/{corpus}/train.parquet", "results/data/{corpus}/val.parquet"
        ),
    log:
        "results/logs/data/{corpus}.log",
    benchmark:
        "results/benchmarks/data/{corpus}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.corpus(w.corpus),
    message:
        "corpus {wildcards.corpus}"
    shell:
        "python -m hybrid_lora.data corpus --source {input.source:q} --benchmarks {input.benchmarks} --train {output.train} --val {output.val} --settings {params.settings:q} > {log} 2>&1"


rule benchmark:
    input:
        source=lambda w: ancient(plan.local_source("benchmarks", w.benchmark)),
        examples=lambda w: ancient(plan.local_examples(w.benchmark)),
        code=code("data.benchmark"),
    output:
        out="results/data/benchmarks/{benchmark}.parquet",
        manifests=manifests("results/data/benchmarks/{benchmark}.parquet"),
    log:
        "results/logs/data/benchmark-{benchmark}.log",
    benchmark:
        "results/benchmarks/data/benchmark-{benchmark}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.benchmark(w.benchmark),
    message:
        "benchmark {wildcards.benchmark}"
    shell:
        "python -m hybrid_lora.data benchmark --source {input.source:q} --examples {input.examples:q} --out {output.out} --settings {params.settings:q} > {log} 2>&1"


rule overlap:
    input:
        train=ancient("results/data/{corpus}/train.parquet"),
        val=ancient("results/data/{corpus}/val.parquet"),
        benchmarks=ancient(plan.benchmark_files()),
        manifests=manifests(
            "results/data/{corpus}/train.parquet",
            "results/data/{corpus}/val.parquet",
            *plan.benchmark_files(),
        ),
        code=code("data.overlap"),
    output:
        out="results/data/{corpus}/overlap.parquet",
        summary="results/data/{corpus}/overlap.json",
    log:
        "results/logs/data/{corpus}.overlap.log",
    benchmark:
        "results/benchmarks/data/{corpus}.overlap.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 60 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.overlap(w.corpus),
    message:
        "overlap of corpus {wildcards.corpus} with the benchmarks"
    shell:
        "python -m hybrid_lora.data overlap --train {input.train} --val {input.val} --benchmarks {input.benchmarks} --out {output.out} --summary {output.summary} --settings {params.settings:q} > {log} 2>&1"


rule stage_data:
    input:
        code=code("data.sources"),
    output:
        "results/.state/staged/data/{source}.json",
    log:
        "results/logs/data/{source}.stage.log",
    benchmark:
        "results/benchmarks/data/{source}.stage.tsv"
    wildcard_constraints:
        source=exactly(plan.hub_data()),
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.staged_data(w.source),
    message:
        "{wildcards.source} to the hub's cache"
    shell:
        "python -m hybrid_lora.data stage --out {output} --settings {params.settings:q} > {log} 2>&1"
