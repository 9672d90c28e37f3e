"""The help of every command: nothing is cut, everything fits the terminal."""

from __future__ import annotations

import click
import pytest
from helpers.command_line import leaves
from mmfeat.cli import group


def groups(command: click.Group, path: tuple[str, ...] = ("mmfeat",)) -> dict[tuple[str, ...], click.Group]:
    """Every group of commands, by its words."""
    found = {path: command}
    for name, one in command.commands.items():
        if isinstance(one, click.Group):
            found |= groups(one, (*path, name))
    return found


def help_of(path: tuple[str, ...], command: click.Command, width: int) -> str:
    return command.get_help(click.Context(command, info_name=" ".join(path), terminal_width=width))


ALL = groups(group) | {("mmfeat", *path): command for path, command in leaves(group).items()}


@pytest.mark.parametrize("width", [60, 80, 110])
@pytest.mark.parametrize("path", groups(group), ids=" ".join)
def test_no_command_of_a_list_is_cut(path, width):
    words = help_of(path, ALL[path], width).split()
    for name, command in ALL[path].commands.items():
        text = command.get_short_help_str(10_000)
        assert not text.endswith("..."), name
        assert f" {name} {text} ".replace("\n", " ") in f" {' '.join(words)} "


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_and_paragraph_is_whole_and_fits(path):
    command = ALL[path]
    shown = help_of(path, command, 80)
    letters = "".join(shown.split())
    texts = [option.help or "" for option in command.params if isinstance(option, click.Option)]
    for text in [*texts, command.help]:
        assert text
        assert "".join(text.split()).removesuffix(".") in letters, text  # a line may end after a hyphen
    assert max(map(len, shown.splitlines())) <= 80
