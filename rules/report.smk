rule figure2:
    input:
        modules=[
            f"results/models/{run.model}/modules.json" for run in plan.figure2_runs()
        ],
        allocations=[
            path for run in plan.figure2_runs() for path in plan.run_allocation(run)
        ],
        code=code("report.figure2"),
    output:
        png=report(
            "results/report/figure2.png",
            caption="../workflow/report/figure2.rst",
            category="Figures",
        ),
        svg="results/report/figure2.svg",
    log:
        "results/logs/report/figure2.log",
    benchmark:
        "results/benchmarks/report/figure2.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=plan.figure2(),
    message:
        "Figure 2"
    shell:
        "python -m hybrid_lora.report figure2 --modules {input.modules} --allocations {input.allocations} --png {output.png} --svg {output.svg} --settings {params.settings:q} > {log} 2>&1"


rule table1:
    input:
        metrics=plan.metrics_files(),
        tunable=plan.trainable_files(),
        code=code("report.table1"),
    output:
        csv="results/report/table1.csv",
        md=report(
            "results/report/table1.md",
            caption="../workflow/report/table1.rst",
            category="Tables",
        ),
        tex="results/report/table1.tex",
    log:
        "results/logs/report/table1.log",
    benchmark:
        "results/benchmarks/report/table1.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=plan.table1(),
    message:
        "Table 1"
    shell:
        "python -m hybrid_lora.report table1 --metrics {input.metrics} --tunable {input.tunable} --csv {output.csv} --md {output.md} --tex {output.tex} --settings {params.settings:q} > {log} 2>&1"


rule report_index:
    input:
        figure2=[*rules.figure2.output] if plan.figure2_runs() else [],
        table1=[*rules.table1.output],
        code=code("report.index"),
    output:
        "results/report/index.md",
    log:
        "results/logs/report/index.log",
    benchmark:
        "results/benchmarks/report/index.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=plan.index(),
    message:
        "index of the report"
    shell:
        "python -m hybrid_lora.report index --artifacts {input.figure2} {input.table1} --out {output} --settings {params.settings:q} > {log} 2>&1"


rule comparisons:
    input:
        grades=ancient(plan.grades_files()),
        manifests=manifests(*plan.grades_files()),
        code=code("evaluation.compare"),
    output:
        csv="results/report/comparisons.csv",
        seeds="results/report/seeds.csv",
        md=report(
            "results/report/comparisons.md",
            caption="../workflow/report/comparisons.rst",
            category="Tables",
        ),
    log:
        "results/logs/report/comparisons.log",
    benchmark:
        "results/benchmarks/report/comparisons.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=lambda w, attempt: 30 * attempt,
        gpu=0,
    params:
        settings=plan.comparisons(),
    message:
        "paired comparisons of runs"
    shell:
        "python -m hybrid_lora.evaluation compare --grades {input.grades} --csv {output.csv} --seeds {output.seeds} --md {output.md} --settings {params.settings:q} > {log} 2>&1"
