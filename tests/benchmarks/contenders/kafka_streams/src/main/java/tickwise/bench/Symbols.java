package tickwise.bench;

import com.fasterxml.jackson.core.io.JsonStringEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The symbols of one task, found by their bytes. */
final class Symbols {
    /** One symbol: its state, and its name as key and as the JSON of a prediction has it. */
    static final class Entry {
        final SymbolState state = new SymbolState();
        final byte[] key;
        final byte[] json;
        private final int hash;

        private Entry(byte[] key, int hash) {
            this.key = key;
            this.hash = hash;
            json = JsonStringEncoder.getInstance().quoteAsUTF8(new String(key, StandardCharsets.UTF_8));
        }
    }

    private Entry[] table = new Entry[1024];
    private int count;

    /** The entry of the symbol in these bytes, made where there is none. */
    Entry find(byte[] bytes, int from, int to) {
        int hash = 0;
        for (int i = from; i < to; i++) {
            hash = 31 * hash + bytes[i];
        }
        hash ^= hash >>> 15;
        int place = hash & (table.length - 1);
        for (Entry entry; (entry = table[place]) != null; place = (place + 1) & (table.length - 1)) {
            if (entry.hash == hash && Arrays.equals(entry.key, 0, entry.key.length, bytes, from, to)) {
                return entry;
            }
        }
        Entry made = new Entry(Arrays.copyOfRange(bytes, from, to), hash);
        table[place] = made;
        if (++count * 2 > table.length) {
            grow();
        }
        return made;
    }

    private void grow() {
        Entry[] old = table;
        table = new Entry[2 * old.length];
        for (Entry entry : old) {
            if (entry != null) {
                int place = entry.hash & (table.length - 1);
                while (table[place] != null) {
                    place = (place + 1) & (table.length - 1);
                }
                table[place] = entry;
            }
        }
    }
}
