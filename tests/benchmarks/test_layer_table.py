def test_every_size_and_batch_has_its_line(script, capsys):
    script("layer_table").main("16,32", "1,8", "float32", "tiles", 0.01)
    header, _, *lines = capsys.readouterr().out.splitlines()[2:]
    assert "frozen inverse" in header
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| {n}", rows] for n in (16, 32) for rows in ("1", "8")
    ]
    assert all(float(cell) > 0 for line in lines for cell in line.strip("| ").split(" | "))
