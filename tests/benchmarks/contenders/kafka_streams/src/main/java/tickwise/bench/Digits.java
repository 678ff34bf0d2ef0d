package tickwise.bench;

import com.fasterxml.jackson.core.io.NumberOutput;
import java.nio.charset.StandardCharsets;

/** Writes numbers as ASCII; each method returns the place after what it wrote. */
final class Digits {
    private static final double[] TENS = {
        1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14
    };
    private static final byte[] PAIRS = new byte[200]; // "00", "01", ... "99"

    static {
        for (int i = 0; i < 100; i++) {
            PAIRS[2 * i] = (byte) ('0' + i / 10);
            PAIRS[2 * i + 1] = (byte) ('0' + i % 10);
        }
    }

    private Digits() {}

    /** Writes an integer that is not negative. */
    static int put(long value, byte[] to, int at) {
        int end = at + length(value);
        putBefore(value, to, end);
        return end;
    }

    /** Writes the shortest decimal that reads back as the same finite float. */
    static int put(float value, byte[] to, int at) {
        double size = Math.abs((double) value);
        if (!(size >= 1e-3 && size < 1e6)) {
            byte[] text = NumberOutput.toString(value, true).getBytes(StandardCharsets.US_ASCII);
            System.arraycopy(text, 0, to, at, text.length);
            return at + text.length;
        }
        if (value < 0) {
            to[at++] = '-';
        }
        // What rounds to the float lies between the middles to its neighbours, which are exact doubles. A decimal that
        // is rounded to a double between them is itself between them.
        float positive = (float) size;
        double low = 0.5 * (size + (double) Math.nextDown(positive));
        double high = 0.5 * (size + (double) Math.nextUp(positive));
        int before = 1; // digits before the point, at zero or less: zeros after it
        if (size >= 1) {
            while (size >= TENS[before]) {
                before++;
            }
        } else {
            before = size >= 1e-1 ? 0 : size >= 1e-2 ? -1 : -2;
        }
        int decimals = Math.max(1, 7 - before); // most floats need 7 to 9 digits
        long digits = nearest(size, decimals);
        if (reads(digits, decimals, low, high)) {
            for (long fewer; decimals > 1; digits = fewer) {
                fewer = nearest(size, decimals - 1);
                if (!reads(fewer, decimals - 1, low, high)) {
                    break;
                }
                decimals--;
            }
        } else {
            do {
                digits = nearest(size, ++decimals);
            } while (!reads(digits, decimals, low, high));
        }
        long power = (long) TENS[decimals];
        at = put(digits / power, to, at);
        to[at++] = '.';
        long fraction = digits % power;
        int end = at + decimals;
        java.util.Arrays.fill(to, at, end, (byte) '0');
        putBefore(fraction, to, end);
        return end;
    }

    private static long nearest(double size, int decimals) {
        return (long) (size * TENS[decimals] + 0.5);
    }

    private static boolean reads(long digits, int decimals, double low, double high) {
        double value = digits / TENS[decimals];
        return value > low && value < high;
    }

    private static int length(long value) {
        int length = 1;
        for (long limit = 10; length < 19 && value >= limit; limit *= 10) {
            length++;
        }
        return length;
    }

    private static void putBefore(long value, byte[] to, int end) {
        while (value >= 100) {
            int pair = (int) (value % 100) * 2;
            value /= 100;
            to[--end] = PAIRS[pair + 1];
            to[--end] = PAIRS[pair];
        }
        if (value >= 10) {
            to[--end] = PAIRS[(int) value * 2 + 1];
            to[--end] = PAIRS[(int) value * 2];
        } else {
            to[--end] = (byte) ('0' + value);
        }
    }
}
