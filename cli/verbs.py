"""The verbs: where each is, and what `trcompress --help` says of it. Nothing here is imported before it runs."""

# verb -> (module, what `trcompress --help` says of it), in the order of use
VERBS = {
    "inspect": ("trcompress.cli.inspect", "List the recurrent layers of a checkpoint."),
    "plan": ("trcompress.cli.plan", "Search shapes and ranks under a budget."),
    "decompose": ("trcompress.cli.decompose", "Turn a dense checkpoint into a tensor-ring artifact."),
    "compress": ("trcompress.cli.compress", "Make the whole file as small as asked."),
    "finetune": ("trcompress.cli.finetune", "Train an artifact end to end on the target data."),
    "evaluate": ("trcompress.cli.evaluate", "Measure an artifact or a checkpoint on data."),
    "bench": ("trcompress.cli.bench", "Time an artifact against its dense original on this machine."),
    "export": ("trcompress.cli.export", "Ship a network as ONNX or torch.export, checked against PyTorch."),
    "report": ("trcompress.cli.report", "Report counts, ratios, errors, accuracy and lineage."),
    "expand": ("trcompress.cli.expand", "Turn an artifact back into an ordinary checkpoint."),
    "data": ("trcompress.cli.data", "Make and extract data sets."),
    "reproduce": ("trcompress.cli.reproduce", "Reproduce one row of the paper's tables and figures."),
    "recipe": ("trcompress.cli.recipe", "Show, check and copy the recipes."),
    "doctor": ("trcompress.cli.doctor", "Tell what is installed here, and whether it works."),
    "demo": ("trcompress.cli.demo", "Run the whole way once, on data that ships with trcompress."),
}
