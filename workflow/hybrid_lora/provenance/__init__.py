"""What artifacts were made from, against today's configuration, inputs and code: why, status, verify, adopt.

What each job would be today is asked of Snakemake itself (`today`), what it was is read from manifests (`records`). Nothing here
is part of a stage, so editing it reruns nothing.
"""
