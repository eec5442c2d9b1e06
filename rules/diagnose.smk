# Rules are read before Snakemake knows its targets, and what an input function raises is printed with a traceback. So the
# command line is looked at here: a mistake then prints as those in the rest of the configuration do.
if any(re.match(r"diagnose$|results/report/diagnose-", word) for word in sys.argv[1:]):
    asked(plan.check_diagnose)


rule diagnose_model:
    input:
        modules="results/models/{model}/modules.json",
        scores=lambda w: asked(plan.diagnose_scores, w.model),
        allocations=lambda w: plan.diagnose_allocations(w.model),
        code=code("report.diagnose"),
    output:
        csv="results/report/diagnose-{model}.csv",
        md=report(
            "results/report/diagnose-{model}.md",
            caption="../workflow/report/diagnose.rst",
            category="Tables",
        ),
        png=report(
            "results/report/diagnose-{model}.png",
            caption="../workflow/report/diagnose.rst",
            category="Figures",
        ),
        svg="results/report/diagnose-{model}.svg",
    log:
        "results/logs/report/diagnose-{model}.log",
    benchmark:
        "results/benchmarks/report/diagnose-{model}.tsv"
    conda:
        environment
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,
        runtime=lambda w, attempt: 10 * attempt,
        gpu=0,
    params:
        settings=lambda w: plan.diagnose(w.model),
    message:
        "is the score any good for {wildcards.model}?"
    shell:
        "python -m hybrid_lora.report diagnose --modules {input.modules} --scores {input.scores} --allocations {input.allocations} --csv {output.csv} --md {output.md} --png {output.png} --svg {output.svg} --settings {params.settings:q} > {log} 2>&1"
