rule training:
    input:
        model=lambda w: f"results/models/{plan.runs[w.run].model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.objective_corpus(w.run))),
        val=lambda w: ancient(rows("val", plan.objective_corpus(w.run))),
        manifests=lambda w: manifests(
            rows("train", plan.objective_corpus(w.run)),
            rows("val", plan.objective_corpus(w.run)),
            *[rows("train", corpus) for corpus in plan.code_corpus(w.run)],
        ),
        programs=lambda w: ancient(
            [rows("train", corpus) for corpus in plan.code_corpus(w.run)]
        ),
        allocation=lambda w: plan.run_allocation(w.run),
        code=lambda w: code("training.train", plan.training(w.run)),
    output:
        policy="results/training/{run}/policy/manifest.json",
        history="results/training/{run}/history.parquet",
        trainable="results/training/{run}/trainable.json",
        samples="results/training/{run}/samples.parquet",
    log:
        "results/logs/training/{run}.log",
    benchmark:
        "results/benchmarks/training/{run}.tsv"
    conda:
        environment
    threads: plan.launch["threads"]
    resources:
        **compute.resources(plan.values),
        mem_mb=lambda w, attempt: 16000 * plan.launch["processes"] * attempt,
        runtime=lambda w, attempt: 1440 * attempt,
        gpu=compute.gpus(plan.values),
    params:
        settings=lambda w: plan.training(w.run),
    message:
        "training of {wildcards.run} (progress in {log})"
    shell:
        "python -m hybrid_lora.training train --model {input.model} --train {input.train} --val {input.val} --programs {input.programs} --allocation {input.allocation} --out results/training/{wildcards.run}/policy --history {output.history} --trainable {output.trainable} --samples {output.samples} --state results/.state/training/{wildcards.run} --workers {threads} --settings {params.settings:q} > {log} 2>&1"
