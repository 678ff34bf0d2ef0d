package tickwise.bench;

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/**
 * What the contender makes of its input, for a comparison with the kernel.
 *
 * <p>{@code features}: reads a JSON tick a line, writes its flags and 16 features, or {@code duplicate}, or {@code bad}.
 * {@code floats}: reads the bits of a float32 a line, writes the number as a prediction has it.
 */
public final class SelfCheck {
    private SelfCheck() {}

    public static void main(String[] words) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        BufferedWriter out = new BufferedWriter(new OutputStreamWriter(System.out, StandardCharsets.UTF_8));
        switch (words[0]) {
            case "features" -> features(in, out);
            case "floats" -> floats(in, out);
            default -> throw new IllegalArgumentException(words[0]);
        }
        out.flush();
    }

    private static void features(BufferedReader in, Writer out) throws IOException {
        TickParser parser = new TickParser();
        Symbols symbols = new Symbols();
        Map<String, SymbolState> stored = new HashMap<>();
        float[] x = new float[SymbolState.WIDTH];
        float[] y = new float[SymbolState.WIDTH];
        for (String line; (line = in.readLine()) != null; ) {
            byte[] json = line.getBytes(StandardCharsets.UTF_8);
            Tick tick;
            try {
                tick = Tick.read(json);
            } catch (RuntimeException error) {
                out.write("bad\n");
                continue;
            }
            parser.read(json);
            Symbols.Entry entry = symbols.find(parser.symbolBytes, parser.symbolFrom, parser.symbolTo);
            int flags = entry.state.step(parser.tick, x, 0);

            // The idiomatic form reads the same tick with Jackson and its state from bytes.
            SymbolState state = stored.getOrDefault(tick.symbol, new SymbolState());
            state = SymbolState.fromBytes(state.toBytes());
            stored.put(tick.symbol, state);
            boolean same = state.step(tick, y, 0) == flags
                    && new String(entry.key, StandardCharsets.UTF_8).equals(tick.symbol);
            if (flags == SymbolState.DUPLICATE) {
                out.write("duplicate\n");
                continue;
            }
            out.write(Integer.toString(flags));
            for (int k = 0; k < x.length; k++) {
                same &= Float.compare(x[k], y[k]) == 0;
                out.write(' ');
                out.write(Float.toString(x[k]));
            }
            out.write('\n');
            if (!same) {
                throw new IllegalStateException("the forms differ at " + line);
            }
        }
    }

    private static void floats(BufferedReader in, Writer out) throws IOException {
        byte[] text = new byte[64];
        for (String line; (line = in.readLine()) != null; ) {
            int end = Digits.put(Float.intBitsToFloat(Integer.parseInt(line)), text, 0);
            out.write(new String(text, 0, end, StandardCharsets.US_ASCII));
            out.write('\n');
        }
    }
}
