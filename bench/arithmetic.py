"""How many floating-point operations of matrix products a job needs: the least that leaves nothing out of an exact result.

A row (one position of one sequence) costs a block 24 d^2: queries 2, keys and values 4, the attention's output 2, the MLP 16. The
unembedding costs a wanted position 2 d V. Attention's own arithmetic is small at these lengths and not counted, here as in
the count that loci keeps of what it spends (`matrix_flop` in its JSON summaries).
"""
QUERY, KEYS_VALUES, OUTPUT, MLP = 2, 4, 2, 16
ROW = QUERY + KEYS_VALUES + OUTPUT + MLP


def block_range(layers, first, rows, window=None, module=None):
    """Blocks first .. layers - 1 of a lane of `rows` rows whose first row has `module` restored in the layers of `window`.

    In the first block only the first row's query, key and value are new; in the last one only the last row goes on after
    the keys and values. In units of d^2.
    """
    total = 0
    for layer in range(first, layers):
        projected = 1 if layer == first else rows
        if layer == layers - 1:
            total += KEYS_VALUES * projected + QUERY + OUTPUT + MLP
            saved_row = rows == 1
        else:
            total += (QUERY + KEYS_VALUES) * projected + (OUTPUT + MLP) * rows
            saved_row = True
        if window and window[0] <= layer < window[1] and saved_row:
            total -= MLP if module == "mlp" else QUERY + OUTPUT
    return total


def layer_windows(layers, window):
    """{first layer: sorted ends} of the windows around each layer."""
    made = {}
    for layer in range(layers):
        begin, end = max(0, layer - window // 2), min(layers, layer + (window + 1) // 2)
        made.setdefault(begin, set()).add(end)
    return {begin: sorted(ends) for begin, ends in made.items()}


def trace(layers, width, vocabulary, tokens, subject_begin, samples=10, window=10, kinds=("state", "mlp", "attn")):
    """A full trace of one fact: the clean run, the corrupted ones, and a lane for each state and window."""
    total, lanes = 0, 0
    for token in range(subject_begin, tokens):
        rows = tokens - token

        def reaches_end(layer):
            return layer < layers - 1 or rows == 1

        if "state" in kinds:
            for layer in range(layers):
                if reaches_end(layer):
                    total, lanes = total + block_range(layers, layer + 1, rows), lanes + 1
        for module in ("mlp", "attn"):
            if module not in kinds:
                continue
            for begin, ends in layer_windows(layers, window).items():
                if not reaches_end(begin):
                    continue
                # The first block of a window changes one row: a restored MLP is known, a restored attention output meets the MLP.
                total += 0 if module == "mlp" else MLP
                total += block_range(layers, begin + 1, rows, (begin + 1, ends[-1]), module)
                lanes += len(ends)
                for end in ends[:-1]:  # leaves the longest window where its own ends: one row through block `end`, then all
                    total += OUTPUT + MLP + (QUERY + KEYS_VALUES if end == begin + 1 else 0)
                    total += block_range(layers, end + 1, rows)
    whole_runs = ROW * layers * (tokens + samples * (tokens - subject_begin))
    return (samples * total + whole_runs) * width ** 2 + 2 * width * vocabulary * (1 + samples * (lanes + 1))


def edit(layers, width, vocabulary, layer, prompts, steps=20):
    """v* of one request: `prompts` lists (rows from the fact token on, wanted positions), the essence prompt among them.
    Forwards `steps` times, backwards once less, above `layer`; backwards costs as much as forwards, gradients of rows
    alone. The runs that lead there once are counted too, but not the prefixes that requests share."""
    total = unembedded = base = 0
    for rows, wanted in prompts:
        total += sum((QUERY + KEYS_VALUES) * (1 if block == layer + 1 else rows) + (OUTPUT + MLP) * rows
                     for block in range(layer + 1, layers - 1))
        total += KEYS_VALUES * rows + (QUERY + OUTPUT + MLP) * wanted
        unembedded += wanted
        base += ROW * rows * (layer + 1) + (QUERY + KEYS_VALUES) * rows
    passes = 2 * steps - 1
    return (passes * total + base) * width ** 2 + passes * 2 * width * vocabulary * unembedded


def second_moments(width, tokens, layers):
    """Of keys of width 4 d at `layers`: every block up to the last of them, that one's up projection, half a product each."""
    last = max(layers)
    return tokens * ((ROW * last + QUERY + KEYS_VALUES + OUTPUT + MLP // 2) * width ** 2 + len(layers) * (4 * width) ** 2)
