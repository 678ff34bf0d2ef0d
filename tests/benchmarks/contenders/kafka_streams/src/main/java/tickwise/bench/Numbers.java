package tickwise.bench;

import java.nio.ByteBuffer;

/** The numbers of a symbol's ticks of one kind that are remembered: {@code ml_core/data_processor/repeats.py}. */
final class Numbers {
    static final int LONGS = 5;

    private static final int MEMORY = 64;
    private static final int RESTART_TICKS = 8;

    /** The numbering in force and the other one: highest number, and a bit for each of the 64 up to it. */
    private long high, seen, otherHigh, otherSeen;

    private long strange; // ticks in a row that were of the other one

    /** Returns whether a number is remembered, and remembers it. */
    boolean seenBefore(long seq, boolean isLater) {
        if (seq < 0) {
            return false;
        }
        long ahead = seq - high;
        long back = otherHigh - seq;
        if (0 < ahead && ahead < MEMORY && seen != 0 && !(0 <= back && back < MEMORY)) {
            high = seq;
            seen = (seen << ahead) | 1;
            strange = 0;
            return false;
        }
        if (knows(high, seen, seq)) {
            return true;
        }
        if (knows(otherHigh, otherSeen, seq)) {
            if (seq < high || !isLater) {
                return true;
            }
            otherSeen = 0;
        }
        if (isNear(high, seen, seq)) {
            seen = with(high, seen, seq);
            high = Math.max(high, seq);
            strange = 0;
            return false;
        }
        if (isNear(otherHigh, otherSeen, seq)) {
            otherSeen = with(otherHigh, otherSeen, seq);
            otherHigh = Math.max(otherHigh, seq);
        } else if (seq > high || seen == 0) {
            if (strange == 0) {
                otherHigh = high;
                otherSeen = seen;
            }
            high = seq;
            seen = 1;
            strange = 0;
            return false;
        } else {
            otherHigh = seq;
            otherSeen = 1;
        }
        strange++;
        if (strange == RESTART_TICKS) {
            long wasHigh = high;
            long wasSeen = seen;
            high = otherHigh;
            seen = otherSeen;
            otherHigh = wasHigh;
            otherSeen = wasSeen;
            strange = 0;
        }
        return false;
    }

    private static boolean knows(long high, long seen, long seq) {
        long back = high - seq;
        return 0 <= back && back < MEMORY && ((seen >> back) & 1) != 0;
    }

    private static boolean isNear(long high, long seen, long seq) {
        return seen != 0 && Math.abs(seq - high) < MEMORY;
    }

    private static long with(long high, long seen, long seq) {
        long ahead = seq - high;
        return ahead > 0 ? (seen << ahead) | 1 : seen | (1L << -ahead);
    }

    void put(ByteBuffer to) {
        to.putLong(high).putLong(seen).putLong(otherHigh).putLong(otherSeen).putLong(strange);
    }

    void take(ByteBuffer from) {
        high = from.getLong();
        seen = from.getLong();
        otherHigh = from.getLong();
        otherSeen = from.getLong();
        strange = from.getLong();
    }
}
