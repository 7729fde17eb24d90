"""Makes a model in llama.cpp's format out of random numbers, which are the same every time: nothing is downloaded.

usage: llama_model.py OUT.gguf tiny|slow

It knows some English words, so what it says reads like text and means nothing.
tiny: 0.6 MB, thousands of tokens a second. slow: 110 MB, about a hundred, and it never stops by itself.
"""
import sys

import gguf
import numpy

WORDS = """
    the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
    what all were we when your can said there use an each which she do how their if will up other about out many then
    them these so some her would make like him into time has look two more write go see number no way could people my
    than first water been call who oil its now find long down day did get come made may part over new sound take only
    little work know place year live me back give most very after thing our just name good sentence man think say
""".split()
LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?:;'\"-(){}[]"
# "user: hello" and so on, a line for each message.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
END = 2


def vocabulary():
    kind = gguf.TokenType
    yield from (("<unk>", 0.0, kind.UNKNOWN), ("<s>", 0.0, kind.CONTROL), ("</s>", 0.0, kind.CONTROL))
    yield from ((f"<0x{byte:02X}>", 0.0, kind.BYTE) for byte in range(256))
    yield from ((letter, -100.0, kind.NORMAL) for letter in LETTERS)
    yield from (("▁" + word, -1.0 - rank / 10, kind.NORMAL) for rank, word in enumerate(WORDS))


def write(path, slow):
    width, layers, heads, inner = (512, 8, 8, 1536) if slow else (64, 2, 4, 128)
    tokens, scores, kinds = zip(*vocabulary())
    numbers = numpy.random.default_rng(7)

    def matrix(*shape, scale=0.3):
        return (numbers.standard_normal(shape) * scale).astype(numpy.float32)

    out = gguf.GGUFWriter(path, "llama")
    out.add_name("slow" if slow else "tiny")
    out.add_context_length(8192)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(heads)
    out.add_head_count_kv(heads)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(width // heads)
    out.add_vocab_size(len(tokens))
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("llama")
    out.add_token_list([token.encode() for token in tokens])
    out.add_token_scores(list(scores))
    out.add_token_types(list(kinds))
    out.add_bos_token_id(1)
    out.add_eos_token_id(END)
    out.add_unk_token_id(0)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    out.add_chat_template(TEMPLATE)

    ones = numpy.ones(width, dtype=numpy.float32)
    out.add_tensor("token_embd.weight", matrix(len(tokens), width, scale=1.0))
    for layer in range(layers):
        block = f"blk.{layer}"
        out.add_tensor(f"{block}.attn_norm.weight", ones)
        out.add_tensor(f"{block}.ffn_norm.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            out.add_tensor(f"{block}.{part}.weight", matrix(width, width))
        out.add_tensor(f"{block}.ffn_gate.weight", matrix(inner, width))
        out.add_tensor(f"{block}.ffn_up.weight", matrix(inner, width))
        out.add_tensor(f"{block}.ffn_down.weight", matrix(width, inner))
    out.add_tensor("output_norm.weight", ones)
    head = matrix(len(tokens), width, scale=1.0)
    # It says whole words, hardly ever a byte or a letter; and the tiny one ends now and then.
    head[: len(tokens) - len(WORDS)] = 0.0
    if not slow:
        head[END] = matrix(width, scale=1.3)
    out.add_tensor("output.weight", head)

    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


write(sys.argv[1], sys.argv[2] == "slow")
