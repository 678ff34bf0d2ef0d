package tickwise.bench;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Writes the JSON of predictions of one partition. */
final class PredictionWriter {
    private static final int FIXED = 512; // more than all but the symbol and the topic id can take
    private static final byte[] SYMBOL = utf8("-0\",\"symbol\":\"");
    private static final byte[] TS = utf8("\",\"ts\":");
    private static final byte[] SCORE = utf8(",\"horizon\":\"" + Arguments.HORIZON + "\",\"score\":");
    private static final String ABOUT =
            ",\"model\":\"" + Arguments.NAME + "\",\"version\":" + Arguments.VERSION + ",\"status\":";
    private static final byte[] OK = utf8(ABOUT + "\"ok\",\"reason\":null}");

    private final byte[] head;
    private byte[] text = new byte[FIXED];

    PredictionWriter(String topicId, int partition) {
        head = utf8("{\"id\":\"" + topicId + "-" + partition + "-");
    }

    byte[] write(long offset, byte[] symbol, long ts, float score, String reason) {
        if (text.length < FIXED + head.length + symbol.length) {
            text = new byte[FIXED + head.length + symbol.length];
        }
        int at = put(head, 0);
        at = Digits.put(offset, text, at);
        at = put(SYMBOL, at);
        at = put(symbol, at);
        at = put(TS, at);
        at = Digits.put(ts, text, at);
        at = put(SCORE, at);
        if (reason == null) {
            at = Digits.put(score, text, at);
            at = put(OK, at);
        } else {
            at = put(utf8("null" + ABOUT + "\"abstained\",\"reason\":\"" + reason + "\"}"), at);
        }
        return Arrays.copyOf(text, at);
    }

    private int put(byte[] part, int at) {
        System.arraycopy(part, 0, text, at, part.length);
        return at + part.length;
    }

    private static byte[] utf8(String part) {
        return part.getBytes(StandardCharsets.UTF_8);
    }
}
