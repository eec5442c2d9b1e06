rule warmup:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=code("probe.warmup"),
    output:
        "results/probe/{model}/{probe}/warmup/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.warmup.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.warmup.tsv"
    wildcard_constraints:
        probe=exactly(plan.warmed_up_by("nll")),
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
        "python -m hybrid_lora.probe warmup --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/warmup --state results/.state/probe/{wildcards.model}.{wildcards.probe}.warmup --settings {params.settings:q} > {log} 2>&1"


rule warmup_rl:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=lambda w: code("probe.warmup_rl", plan.warmup(w.probe)),
    output:
        "results/probe/{model}/{probe}/warmup/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.warmup.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.warmup.tsv"
    wildcard_constraints:
        probe=exactly(plan.warmed_up_by("rl")),
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
        "warm-up by RL of probe {wildcards.probe} on {wildcards.model} (progress in {log})"
    shell:
        "python -m hybrid_lora.probe warmup-rl --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/warmup --state results/.state/probe/{wildcards.model}.{wildcards.probe}.warmup --settings {params.settings:q} --workers {threads} > {log} 2>&1"


rule sensitivity:
    input:
        model="results/models/{model}/manifest.json",
        warmup="results/probe/{model}/{probe}/warmup/manifest.json",
        val=lambda w: ancient(rows("val", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("val", plan.probe_corpus(w.probe))),
        code=code("probe.sensitivity"),
    output:
        out="results/probe/{model}/{probe}/sensitivity/chunk-{chunk}.parquet",
        manifests=manifests(
            "results/probe/{model}/{probe}/sensitivity/chunk-{chunk}.parquet"
        ),
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
        "python -m hybrid_lora.probe sensitivity --model {input.model} --warmup {input.warmup} --val {input.val} --chunk {wildcards.chunk} --out {output.out} --state results/.state/probe/{wildcards.model}.{wildcards.probe}.sensitivity-{wildcards.chunk} --settings {params.settings:q} > {log} 2>&1"


rule perturbation:
    input:
        model="results/models/{model}/manifest.json",
        warmup="results/probe/{model}/{probe}/warmup/manifest.json",
        val=lambda w: ancient(rows("val", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("val", plan.probe_corpus(w.probe))),
        code=code("probe.perturbation"),
    output:
        out="results/probe/{model}/{probe}/perturbation/chunk-{chunk}.parquet",
        manifests=manifests(
            "results/probe/{model}/{probe}/perturbation/chunk-{chunk}.parquet"
        ),
    log:
        "results/logs/probe/{model}.{probe}.perturbation-{chunk}.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.perturbation-{chunk}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.perturbation(w.probe),
    message:
        "exact perturbations of {wildcards.model}, probe {wildcards.probe}, chunk {wildcards.chunk}"
    shell:
        "python -m hybrid_lora.probe perturbation --model {input.model} --warmup {input.warmup} --val {input.val} --chunk {wildcards.chunk} --out {output.out} --state results/.state/probe/{wildcards.model}.{wildcards.probe}.perturbation-{wildcards.chunk} --settings {params.settings:q} > {log} 2>&1"


rule outputs:
    input:
        model="results/models/{model}/manifest.json",
        warmup="results/probe/{model}/{probe}/warmup/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=code("probe.outputs"),
    output:
        out="results/probe/{model}/{probe}/outputs.parquet",
        manifests=manifests("results/probe/{model}/{probe}/outputs.parquet"),
    log:
        "results/logs/probe/{model}.{probe}.outputs.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.outputs.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.outputs(w.probe),
    message:
        "output energies of {wildcards.model}, probe {wildcards.probe}"
    shell:
        "python -m hybrid_lora.probe outputs --model {input.model} --warmup {input.warmup} --train {input.train} --out {output.out} --state results/.state/probe/{wildcards.model}.{wildcards.probe}.outputs --settings {params.settings:q} > {log} 2>&1"


rule adalora:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=code("probe.adalora"),
    output:
        "results/probe/{model}/{probe}/adalora/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.adalora.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.adalora.tsv"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.adalora(w.probe),
    message:
        "AdaLoRA of probe {wildcards.probe} on {wildcards.model} (progress in {log})"
    shell:
        "python -m hybrid_lora.probe adalora --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/adalora --state results/.state/probe/{wildcards.model}.{wildcards.probe}.adalora --settings {params.settings:q} > {log} 2>&1"


rule autolora:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=code("probe.autolora"),
    output:
        "results/probe/{model}/{probe}/autolora/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.autolora.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.autolora.tsv"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.autolora(w.probe),
    message:
        "AutoLoRA of probe {wildcards.probe} on {wildcards.model} (progress in {log})"
    shell:
        "python -m hybrid_lora.probe autolora --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/autolora --state results/.state/probe/{wildcards.model}.{wildcards.probe}.autolora --settings {params.settings:q} > {log} 2>&1"


rule full_warmup:
    input:
        model="results/models/{model}/manifest.json",
        train=lambda w: ancient(rows("train", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("train", plan.probe_corpus(w.probe))),
        code=code("probe.full_warmup"),
    output:
        "results/probe/{model}/{probe}/full-warmup/manifest.json",
    log:
        "results/logs/probe/{model}.{probe}.full-warmup.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.full-warmup.tsv"
    conda:
        environment
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 32000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.full_warmup(w.probe),
    message:
        "full fine-tuning of probe {wildcards.probe} on {wildcards.model} (progress in {log})"
    shell:
        "python -m hybrid_lora.probe full-warmup --model {input.model} --train {input.train} --out results/probe/{wildcards.model}/{wildcards.probe}/full-warmup --state results/.state/probe/{wildcards.model}.{wildcards.probe}.full-warmup --settings {params.settings:q} > {log} 2>&1"


rule full_sensitivity:
    input:
        model="results/models/{model}/manifest.json",
        warmup="results/probe/{model}/{probe}/full-warmup/manifest.json",
        val=lambda w: ancient(rows("val", plan.probe_corpus(w.probe))),
        manifests=lambda w: manifests(rows("val", plan.probe_corpus(w.probe))),
        code=code("probe.full_sensitivity"),
    output:
        out="results/probe/{model}/{probe}/full-sensitivity/chunk-{chunk}.parquet",
        manifests=manifests(
            "results/probe/{model}/{probe}/full-sensitivity/chunk-{chunk}.parquet"
        ),
    log:
        "results/logs/probe/{model}.{probe}.full-sensitivity-{chunk}.log",
    benchmark:
        "results/benchmarks/probe/{model}.{probe}.full-sensitivity-{chunk}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 16000 * attempt,
        runtime=lambda w, attempt: 120 * attempt,
        gpu=plan.gpus,
    params:
        settings=lambda w: plan.full_sensitivity(w.probe),
    message:
        "sensitivities of full fine-tuning of {wildcards.model}, probe {wildcards.probe}, chunk {wildcards.chunk}"
    shell:
        "python -m hybrid_lora.probe full-sensitivity --model {input.model} --warmup {input.warmup} --val {input.val} --chunk {wildcards.chunk} --out {output.out} --state results/.state/probe/{wildcards.model}.{wildcards.probe}.full-sensitivity-{wildcards.chunk} --settings {params.settings:q} > {log} 2>&1"
