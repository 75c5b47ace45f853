"""IAEmuNet: the published architecture, number by number, and its Monte Carlo passes."""

import pytest
import torch
from torch import nn

from iaemu.networks.iaemunet import IAEmuNet, _Layer
from iaemu.prediction import STATISTICS


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    network = IAEmuNet()
    with torch.no_grad():  # running means that are not those of the initial state
        network(torch.randn(64, 7))
    return network.eval()


def outputs_and_inputs(network, inputs):
    """Of each Layer and convolution: what went in and what came out, by name."""
    record, handles = {}, []
    for name, module in network.named_modules():
        if isinstance(module, _Layer | nn.Linear | nn.Conv1d):
            hook = lambda _, arguments, result, name=name: record.update({name: (arguments[0], result)})  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return {name: value[0] for name, value in record.items()}, {name: value[1] for name, value in record.items()}


def test_it_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in IAEmuNet().parameters()) == 660_602


def test_widths_are_the_published_ones(network):
    linear = [(layer.operation.in_features, layer.operation.out_features) for layer in network.embedding]
    assert linear == [(7, 128), (128, 128), (128, 256), (256, 256), (256, 128)]
    assert (network.projection.in_features, network.projection.out_features) == (128, 256)
    assert list(network.decoders) == list(STATISTICS)
    for decoder in network.decoders.values():
        assert decoder.expand.operation.out_features == 700
        convolutions = [layer.operation for layer in decoder.convolutions]
        assert [convolutions[0].in_channels, *(one.out_channels for one in convolutions)] == [
            7,
            14,
            28,
            28,
            56,
            112,
            112,
        ]
        assert all(one.kernel_size == (3,) and one.padding == (1,) for one in convolutions)
        last = decoder.output
        assert (last.out_channels, last.kernel_size, last.stride, last.padding) == (2, (5,), (5,), (1,))


def test_every_layer_has_leaky_relu_batch_norm_and_dropout_of_a_fifth(network):
    layers = [module for module in network.modules() if isinstance(module, _Layer)]
    assert len(layers) == 5 + 3 * 7
    assert all(layer.dropout.p == 0.2 and layer.activation.negative_slope == 0.01 for layer in layers)
    layer, values = network.embedding[0], torch.randn(3, 7)
    norm, linear = layer.norm, nn.functional.leaky_relu(layer.operation(values), 0.01)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(layer(values), (linear - norm.running_mean) * scale + norm.bias)


def test_residual_connections_are_where_the_paper_has_them(network):
    went_in, came_out = outputs_and_inputs(network, torch.randn(5, 7))
    third = came_out["embedding.2"] + network.projection(came_out["embedding.1"])
    fourth = came_out["embedding.3"] + third
    for name, expected in {
        "embedding.1": came_out["embedding.0"],
        "embedding.2": came_out["embedding.1"],
        "embedding.3": third,
        "embedding.4": fourth,
    }.items():
        torch.testing.assert_close(went_in[name], expected)
    for statistic in STATISTICS:
        name = f"decoders.{statistic}"
        out = [came_out[f"{name}.convolutions.{number}"] for number in range(6)]
        expected = [None, out[0], out[1], out[2] + out[1], out[3], out[4]]
        for number in range(1, 6):
            torch.testing.assert_close(went_in[f"{name}.convolutions.{number}"], expected[number])
        torch.testing.assert_close(went_in[f"{name}.output"], out[5] + out[4])
        torch.testing.assert_close(went_in[f"{name}.expand"], came_out["embedding.4"])


def test_outputs_are_a_mean_and_a_positive_variance_in_twenty_bins(network):
    mean, variance = network(torch.randn(4, 7))
    assert mean.shape == variance.shape == (4, 3, 20)
    assert bool((variance > 0).all()) and bool((mean < 0).any())


def test_each_decoder_gives_its_own_statistic(network):
    inputs = torch.randn(4, 7)
    before = network(inputs)
    bias = network.decoders["omega"].output.bias
    with torch.no_grad():
        bias += 1.0
        after = network(inputs)
        bias -= 1.0
    torch.testing.assert_close(after[0] - before[0], torch.tensor([0.0, 1.0, 0.0]).expand(4, 20, 3).transpose(1, 2))


def test_the_variance_bias_starts_at_zero_or_as_asked():
    for bias, network in ((0.0, IAEmuNet()), (1.0, IAEmuNet(variance_bias=1.0))):
        assert [float(decoder.output.bias.detach()[1]) for decoder in network.decoders.values()] == [bias] * 3


def test_a_mask_does_what_dropout_does(network):
    layer = network.decoders["xi"].convolutions[2]
    values = torch.randn(1, 28, 100)
    layer.dropout.train()
    dropped = layer(values)
    layer.dropout.eval()
    torch.testing.assert_close(layer(values, dropped != 0), dropped)


def test_monte_carlo_passes_are_reproducible_and_the_same_in_any_batch(network):
    inputs = torch.randn(6, 7)
    before = torch.random.get_rng_state()
    mean, variance = network(inputs, network.draw_masks(8, seed=3))
    assert mean.shape == variance.shape == (8, 6, 3, 20)
    torch.testing.assert_close(network(inputs[2:4], network.draw_masks(8, seed=3))[0], mean[:, 2:4])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.allclose(network(inputs, network.draw_masks(8, seed=4))[0], mean)
    kept = torch.cat([mask.flatten() for mask in network.draw_masks(8, seed=3)]).float().mean()
    assert abs(float(kept) - 0.8) < 0.005
    assert bool((mean.std(dim=0) > 0).all())


def test_without_dropout_every_pass_is_the_prediction():
    network = IAEmuNet(dropout=0.0).eval()
    inputs = torch.randn(3, 7)
    torch.testing.assert_close(network(inputs, network.draw_masks(2, 0))[0][1], network(inputs)[0])


def test_masks_are_refused_in_training_mode():
    network = IAEmuNet()
    with pytest.raises(RuntimeError, match="eval mode"):
        network(torch.randn(3, 7), network.draw_masks(2, 0))
