"""A server's answers become the table that kb_lens's own become."""

import importlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
served_answers = importlib.import_module("served_answers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "folded"
    tiny_hf_model(max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Completions(BaseHTTPRequestHandler):
    """What ``/v1/completions`` does, with a tiny model; the choices come in another order."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, tokenizer = self.server.model, self.server.model.tokenizer
        assert asked["temperature"] == 0
        choices = []
        for index, ids in enumerate(asked["prompt"]):
            tokens = torch.tensor([ids])
            choice = {"index": index}
            if asked.get("echo"):
                logprobs = model(tokens).log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])
                choice["logprobs"] = {"token_logprobs": [None, *logprobs[:, 0].tolist(), -1.0]}
            else:
                written = model.original_model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=asked["max_tokens"],
                    do_sample=False,
                    pad_token_id=0,
                    eos_token_id=asked["stop_token_ids"],
                )
                choice["text"] = tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True)
            choices.insert(0, choice)
        body = json.dumps({"choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture(scope="module")
def server(checkpoint):
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    serving.model = kb.load_model(checkpoint)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "protocol"),
    [("bbq_religion", "generated"), ("over_correction", None), ("stereoset", "original")],
)
def test_the_table_is_that_of_evaluate(request, checkpoint, server, tmp_path, name, protocol):
    if name == "bbq_religion":  # the others come with packages
        request.getfixturevalue("data_dir")
    options = {"limit": 4} | ({"protocol": protocol} if protocol else {})
    benchmark = kb.load_benchmark(name, **options)
    expected = kb.evaluate(kb.load_model(checkpoint), benchmark, progress=False)
    arguments = [str(checkpoint), name, "--limit", "4", "--server", server]
    arguments += ["--protocol", protocol] if protocol else []
    served_answers.main([*arguments, "--out", str(tmp_path)])
    result = kb.EvaluationResult.load(tmp_path, expected.key)
    pd.testing.assert_frame_equal(result.items, expected.items, rtol=1e-4)
    assert result.metrics.keys() == expected.metrics.keys()
    assert result.digest == expected.digest


def test_what_one_answer_does_not_make_is_refused(checkpoint, data_dir):
    server = served_answers.connect(str(checkpoint), "http://127.0.0.1:9", None)
    sampled = kb.load_benchmark("bbq_religion", protocol="release", limit=2, data_dir=data_dir)
    with pytest.raises(SystemExit, match="samples"):
        served_answers.evaluate(server, sampled)


def test_no_server_is_one_line(checkpoint):
    server = served_answers.connect(str(checkpoint), "http://127.0.0.1:9/", None)
    with pytest.raises(SystemExit, match="does not answer"):
        served_answers.evaluate(server, kb.load_benchmark("stereoset", limit=1))
