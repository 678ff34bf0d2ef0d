package tickwise.bench;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Reads ticks in the layout their publisher writes, in place; any other JSON is left to Jackson. The symbol of the last
 * tick stands at {@code symbolFrom} to {@code symbolTo} of {@code symbolBytes}; {@code tick.symbol} is not set.
 */
final class TickParser {
    private static final byte[] TRADE = ascii("{\"type\":\"trade\",\"symbol\":\"");
    private static final byte[] QUOTE = ascii("{\"type\":\"quote\",\"symbol\":\"");
    private static final byte[] TS = ascii("\",\"ts\":");
    private static final byte[] PRICE = ascii(",\"price\":");
    private static final byte[] SIZE = ascii(",\"size\":");
    private static final byte[] BUY = ascii(",\"side\":\"buy\"");
    private static final byte[] SELL = ascii(",\"side\":\"sell\"");
    private static final byte[] BID = ascii(",\"bid\":");
    private static final byte[] ASK = ascii(",\"ask\":");
    private static final byte[] BID_SIZE = ascii(",\"bid_size\":");
    private static final byte[] ASK_SIZE = ascii(",\"ask_size\":");
    private static final byte[] SEQ = ascii(",\"seq\":");
    private static final double[] TENS = {
        1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18
    };
    private static final int BAD = -1;

    final Tick tick = new Tick();
    byte[] symbolBytes;
    int symbolFrom;
    int symbolTo;

    private byte[] text;
    private long whole;
    private double number;

    /** Reads one record; throws SerializationException where it is no tick. */
    void read(byte[] value) {
        if (readOwn(value)) {
            return;
        }
        Tick other = Tick.read(value);
        tick.isTrade = other.isTrade;
        tick.ts = other.ts;
        tick.price = other.price;
        tick.size = other.size;
        tick.side = other.side;
        tick.bid = other.bid;
        tick.ask = other.ask;
        tick.bidSize = other.bidSize;
        tick.askSize = other.askSize;
        tick.seq = other.seq;
        symbolBytes = other.symbol.getBytes(StandardCharsets.UTF_8);
        symbolFrom = 0;
        symbolTo = symbolBytes.length;
    }

    private boolean readOwn(byte[] value) {
        if (value == null) {
            return false;
        }
        text = value;
        int at = after(0, TRADE);
        boolean isTrade = at != BAD;
        if (!isTrade && (at = after(0, QUOTE)) == BAD) {
            return false;
        }
        symbolBytes = value;
        symbolFrom = at;
        while (at < value.length && value[at] != '"') {
            if (value[at] < ' ' || value[at] == '\\') { // not ASCII, or an escape
                return false;
            }
            at++;
        }
        symbolTo = at;
        if ((at = whole(after(at, TS))) == BAD) {
            return false;
        }
        tick.isTrade = isTrade;
        tick.ts = whole;
        at = isTrade ? readTrade(at) : readQuote(at);
        if (at == BAD) {
            return false;
        }
        tick.seq = -1;
        if (value[at] == ',') {
            if ((at = whole(after(at, SEQ))) == BAD) {
                return false;
            }
            tick.seq = whole;
        }
        return value[at] == '}' && at == value.length - 1 && tick.ts > 0;
    }

    private int readTrade(int start) {
        int at = number(after(start, PRICE));
        tick.price = number;
        at = number(after(at, SIZE));
        tick.size = number;
        tick.side = 0;
        int buy = after(at, BUY);
        if (buy != BAD) {
            tick.side = 1;
            at = buy;
        } else {
            int sell = after(at, SELL);
            if (sell != BAD) {
                tick.side = -1;
                at = sell;
            }
        }
        return tick.price > 0 && tick.size > 0 && at < text.length ? at : BAD;
    }

    private int readQuote(int start) {
        int at = number(after(start, BID));
        tick.bid = number;
        at = number(after(at, ASK));
        tick.ask = number;
        at = number(after(at, BID_SIZE));
        tick.bidSize = number;
        at = number(after(at, ASK_SIZE));
        tick.askSize = number;
        boolean right = tick.bid > 0 && tick.bid <= tick.ask && tick.bidSize > 0 && tick.askSize > 0;
        return right && at < text.length ? at : BAD;
    }

    /** Returns the place after {@code word} where it stands at {@code at}. */
    private int after(int at, byte[] word) {
        int end = at + word.length;
        return at != BAD && end <= text.length && Arrays.equals(text, at, end, word, 0, word.length) ? end : BAD;
    }

    /** Reads an integer without sign, of at most 19 digits that fit a long, into {@code whole}. */
    private int whole(int start) {
        if (start == BAD) {
            return BAD;
        }
        long value = 0;
        int at = start;
        while (at < text.length && text[at] >= '0' && text[at] <= '9') {
            value = value * 10 + text[at++] - '0';
        }
        whole = value;
        int digits = at - start;
        boolean plain = digits > 0 && digits <= 19 && value >= 0 && (text[start] != '0' || digits == 1);
        return plain && at < text.length ? at : BAD;
    }

    /** Reads a decimal without sign and exponent whose digits and power of ten are exact doubles, into {@code number}. */
    private int number(int start) {
        if (start == BAD) {
            return BAD;
        }
        long digits = 0;
        int at = start;
        while (at < text.length && text[at] >= '0' && text[at] <= '9') {
            digits = digits * 10 + text[at++] - '0';
        }
        int wholeDigits = at - start;
        int decimals = 0;
        if (at < text.length && text[at] == '.') {
            int point = at++;
            while (at < text.length && text[at] >= '0' && text[at] <= '9') {
                digits = digits * 10 + text[at++] - '0';
            }
            decimals = at - point - 1;
            if (decimals == 0) {
                return BAD;
            }
        }
        boolean plain = wholeDigits > 0 && wholeDigits + decimals <= 18 && digits <= 1L << 53
                && (text[start] != '0' || wholeDigits == 1)
                && at < text.length && text[at] != 'e' && text[at] != 'E';
        if (!plain) {
            return BAD;
        }
        number = digits / TENS[decimals];
        return at;
    }

    private static byte[] ascii(String word) {
        return word.getBytes(StandardCharsets.US_ASCII);
    }
}
