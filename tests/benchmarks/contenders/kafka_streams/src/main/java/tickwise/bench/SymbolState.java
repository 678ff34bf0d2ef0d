package tickwise.bench;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;

/**
 * The state of one symbol, and the step that moves it over a tick and writes the 16 features.
 *
 * <p>The rules of {@code ml_core/data_processor/kernels.py} and {@code program.py}, written out for the columns of
 * {@code tests/benchmarks/pipeline.toml}. Times are ns; NaN is "not known yet". Sums and means decay with
 * {@code exp(-dt / tau)}, tau being the number in their name, in seconds.
 */
final class SymbolState {
    static final List<String> FEATURES = List.of(
            "return:1s", "return:5s", "return:30s", "ewma_vol:30s", "mid_offset:10s", "relative_spread",
            "spread_ratio:30s", "queue_imbalance", "queue_imbalance_mean:1s", "microprice_offset",
            "signed_volume:10s", "ofi:1s", "ofi:10s", "trade_intensity:10s", "since_trade", "last_trade_offset");
    static final int WIDTH = 16;
    static final long GAP_NS = 60_000_000_000L;
    static final long MAX_AGE_NS = 5_000_000_000L;

    static final int DUPLICATE = -1;
    static final int WARM_UP = 1;
    static final int GAP = 2;
    static final int NO_PRICE = 4;
    static final int STALE = 8;
    static final int LATE = 16;
    static final int AHEAD = 32;

    private static final double RATE_1 = 1.0 / 1e9;
    private static final double RATE_10 = 1.0 / 10e9;
    private static final double RATE_30 = 1.0 / 30e9;
    private static final long LOOK_BACK_NS = 30_000_000_000L;
    private static final int RESYNC_TICKS = 8; // so many far behind the clock in a row: the clock was wrong
    private static final int BUCKETS = 16;
    private static final int VOL_BUCKETS = 64;
    private static final long RING_1_NS = 1_000_000_000L / BUCKETS;
    private static final long RING_5_NS = 5_000_000_000L / BUCKETS;
    private static final long RING_30_NS = 30_000_000_000L / BUCKETS;
    private static final long VOL_NS = 30_000_000_000L / VOL_BUCKETS;
    private static final double TINY = 1e-250;
    private static final double ROOT_5 = Math.sqrt(5);
    private static final double ROOT_10 = Math.sqrt(10);
    private static final double ROOT_30 = Math.sqrt(30);

    private double bid, ask, bidSize, askSize, ref, logRef, spread, spreadBps, queue, micro, trade;
    private double volume10, signedVolume10, ofi1, absOfi1, ofi10, absOfi10, trades10, weight10;
    private double meanLogRef10, meanSpread30, meanQueue1;
    private double squares, sampledS, sample, sigma, logSigma;
    private final double[] ring1 = new double[BUCKETS];
    private final double[] ring5 = new double[BUCKETS];
    private final double[] ring30 = new double[BUCKETS];

    private long ticks, clock, warmUntil, gapUntil, gapOwed, behind, tradeTs, quoteTs, tradeGap, side;
    private long bucket1, bucket5, bucket30, volBucket, parked;
    private final Numbers[] numbers = {new Numbers(), new Numbers()};

    /** Moves the state over a tick; returns its flags and writes its features at {@code at}, or returns DUPLICATE. */
    int step(Tick tick, float[] x, int at) {
        if (numbers[tick.isTrade ? 0 : 1].seenBefore(tick.seq, tick.ts > clock)) {
            return DUPLICATE;
        }
        long before = clock;
        int misplaced = advance(tick.ts);
        // The first tick, and one that set the clock back, find nothing that could decay.
        long dt = ticks > 1 && misplaced == 0 && clock > before ? clock - before : 0;
        double keep1 = 1;
        double keep10 = 1;
        double keep30 = 1;
        if (dt > 0) {
            keep1 = Math.exp(-dt * RATE_1);
            keep10 = Math.exp(-dt * RATE_10);
            keep30 = Math.exp(-dt * RATE_30);
            weight10 += (1 - weight10) * (1 - keep10);
            meanLogRef10 = mean(meanLogRef10, logRef, keep10);
            meanSpread30 = mean(meanSpread30, spread, keep30);
            meanQueue1 = mean(meanQueue1, queue, keep1);
            moveGrids();
        }
        volume10 *= keep10;
        signedVolume10 *= keep10;
        trades10 *= keep10;
        ofi1 *= keep1;
        absOfi1 *= keep1;
        ofi10 *= keep10;
        absOfi10 *= keep10;
        if (tick.isTrade) {
            takeTrade(tick.price, tick.size, tick.side);
        } else {
            takeQuote(tick.bid, tick.ask, tick.bidSize, tick.askSize);
        }
        write(x, at);
        return flags(misplaced);
    }

    /** Moves the clock; returns LATE or AHEAD of a tick that leaves it where it was, else 0. */
    private int advance(long ts) {
        ticks++;
        long dt = ts - clock;
        boolean first = ticks == 1;
        long before = parked;
        parked = 0;
        if (!first && dt < 0) {
            behind = -dt > GAP_NS ? behind + 1 : 0;
            if (behind < RESYNC_TICKS) {
                return LATE;
            }
        }
        behind = 0;
        if (!first && dt > GAP_NS && (before == 0 || ts < before - GAP_NS)) {
            parked = ts;
            return AHEAD;
        }
        clock = ts;
        if (first || dt < 0) {
            start(ts);
            warmUntil = ts + LOOK_BACK_NS;
            gapUntil = ts;
        }
        if (!first && (dt < 0 || dt > GAP_NS)) {
            gapUntil = ts + LOOK_BACK_NS;
            gapOwed = 1;
        }
        return 0;
    }

    private void start(long ts) {
        bid = ask = bidSize = askSize = ref = logRef = spread = spreadBps = queue = micro = trade = Double.NaN;
        volume10 = signedVolume10 = ofi1 = absOfi1 = ofi10 = absOfi10 = trades10 = weight10 = 0;
        meanLogRef10 = meanSpread30 = meanQueue1 = Double.NaN;
        squares = sampledS = 0;
        sample = sigma = logSigma = Double.NaN;
        Arrays.fill(ring1, Double.NaN);
        Arrays.fill(ring5, Double.NaN);
        Arrays.fill(ring30, Double.NaN);
        gapOwed = side = 0;
        tradeTs = quoteTs = tradeGap = -1;
        bucket1 = ts / RING_1_NS;
        bucket5 = ts / RING_5_NS;
        bucket30 = ts / RING_30_NS;
        volBucket = ts / VOL_NS;
    }

    private static double mean(double mean, double held, double keep) {
        if (Double.isNaN(mean)) {
            return held;
        }
        return Double.isNaN(held) ? mean : mean + (1 - keep) * (held - mean);
    }

    private void moveGrids() {
        if (clock >= (volBucket + 1) * VOL_NS) {
            long bucket = clock / VOL_NS;
            sampleVolatility(bucket - volBucket);
            volBucket = bucket;
        }
        if (clock >= (bucket1 + 1) * RING_1_NS) {
            bucket1 = fill(ring1, bucket1, clock / RING_1_NS);
        }
        if (clock >= (bucket5 + 1) * RING_5_NS) {
            bucket5 = fill(ring5, bucket5, clock / RING_5_NS);
        }
        if (clock >= (bucket30 + 1) * RING_30_NS) {
            bucket30 = fill(ring30, bucket30, clock / RING_30_NS);
        }
    }

    private long fill(double[] ring, long from, long to) {
        for (long past = Math.max(from, to - BUCKETS); past < to; past++) {
            ring[(int) past & (BUCKETS - 1)] = logRef;
        }
        return to;
    }

    private void sampleVolatility(long buckets) {
        if (Double.isNaN(logRef)) {
            return;
        }
        if (!Double.isNaN(sample)) {
            double keep = Math.exp(-buckets / (double) VOL_BUCKETS);
            double change = logRef - sample;
            squares = squares * keep + change * change;
            sampledS = sampledS * keep + buckets * VOL_NS * 1e-9;
            if (squares > TINY) {
                sigma = Math.sqrt(squares / sampledS);
                logSigma = Math.log(1e4 * sigma);
            } else {
                sigma = logSigma = Double.NaN;
            }
        }
        sample = logRef;
    }

    private void takeTrade(double price, double size, int given) {
        trades10 += 1;
        tradeGap = tradeTs >= 0 ? clock - tradeTs : -1;
        tradeTs = clock;
        if (!(price > 0 && price < Double.POSITIVE_INFINITY)) {
            return;
        }
        int taker = given == 0 ? sideOf(price) : given;
        if (taker != 0) {
            side = taker;
        }
        trade = price;
        if (Double.isNaN(bid) && price != ref) {
            ref = price;
            logRef = Math.log(price);
        }
        if (size > 0 && size < Double.POSITIVE_INFINITY) {
            volume10 += size;
            signedVolume10 += taker * size;
        }
    }

    private int sideOf(double price) {
        double against = !Double.isNaN(bid) && price != ref ? ref : trade;
        return price > against ? 1 : price < against ? -1 : (int) side;
    }

    private void takeQuote(double newBid, double newAsk, double newBidSize, double newAskSize) {
        tradeGap = tradeTs >= 0 ? clock - tradeTs : -1;
        if (!(newBid > 0 && newBid <= newAsk && newAsk < Double.POSITIVE_INFINITY)) {
            return;
        }
        quoteTs = clock;
        double flow = 0;
        if (newBid >= bid) {
            flow += newBidSize;
        }
        if (newBid <= bid) {
            flow -= bidSize;
        }
        if (newAsk <= ask) {
            flow -= newAskSize;
        }
        if (newAsk >= ask) {
            flow += askSize;
        }
        double size = Math.abs(flow);
        if (size < Double.POSITIVE_INFINITY && !Double.isNaN(bid)) {
            ofi1 += flow;
            absOfi1 += size;
            ofi10 += flow;
            absOfi10 += size;
        }
        bid = newBid;
        ask = newAsk;
        bidSize = newBidSize;
        askSize = newAskSize;
        double mid = 0.5 * newBid + 0.5 * newAsk;
        if (mid != ref) {
            ref = mid;
            logRef = Math.log(mid);
        }
        spread = newAsk - newBid;
        spreadBps = 1e4 * spread / mid;
        double depth = newBidSize + newAskSize;
        if (newBidSize >= 0 && newAskSize >= 0 && depth > 0 && depth < Double.POSITIVE_INFINITY) {
            queue = (newBidSize - newAskSize) / depth;
            micro = 0.5 * queue * spread / mid;
        } else {
            queue = micro = Double.NaN;
        }
    }

    private int flags(int misplaced) {
        int flags = misplaced;
        if (Double.isNaN(ref)) {
            flags |= NO_PRICE;
        }
        if (clock < warmUntil) {
            flags |= WARM_UP;
        }
        if (clock < gapUntil || gapOwed != 0) {
            flags |= GAP;
            gapOwed = 0;
        }
        if (quoteTs >= 0 && clock - quoteTs > MAX_AGE_NS) {
            flags |= STALE;
        }
        return flags;
    }

    private void write(float[] x, int at) {
        boolean moves = sigma > 0;
        x[at] = moves ? finite((logRef - ring1[(int) bucket1 & (BUCKETS - 1)]) / sigma) : Float.NaN;
        x[at + 1] = moves ? finite((logRef - ring5[(int) bucket5 & (BUCKETS - 1)]) / (sigma * ROOT_5)) : Float.NaN;
        x[at + 2] = moves ? finite((logRef - ring30[(int) bucket30 & (BUCKETS - 1)]) / (sigma * ROOT_30)) : Float.NaN;
        x[at + 3] = finite(logSigma);
        x[at + 4] = moves ? finite((logRef - meanLogRef10) / (sigma * ROOT_10)) : Float.NaN;
        x[at + 5] = finite(spreadBps);
        x[at + 6] = meanSpread30 > 0 ? finite(spread / meanSpread30 - 1) : Float.NaN;
        x[at + 7] = finite(queue);
        x[at + 8] = finite(meanQueue1);
        x[at + 9] = moves ? finite(micro / sigma) : Float.NaN;
        x[at + 10] = volume10 > TINY ? finite(signedVolume10 / volume10) : Float.NaN;
        x[at + 11] = absOfi1 > TINY ? finite(ofi1 / absOfi1) : Float.NaN;
        x[at + 12] = absOfi10 > TINY ? finite(ofi10 / absOfi10) : Float.NaN;
        x[at + 13] = trades10 > TINY && weight10 > 0 ? finite(Math.log(trades10 / (weight10 * 10))) : Float.NaN;
        x[at + 14] = tradeGap >= 0 ? finite(Math.log(1 + tradeGap / 1e6)) : Float.NaN;
        x[at + 15] = spread > 0 ? finite((trade - ref) / spread) : Float.NaN;
    }

    private static float finite(double value) {
        return Math.abs(value) <= Float.MAX_VALUE ? (float) value : Float.NaN;
    }

    byte[] toBytes() {
        ByteBuffer to = ByteBuffer.allocate(Double.BYTES * (27 + 3 * BUCKETS) + Long.BYTES * (15 + 2 * Numbers.LONGS));
        for (double value : new double[] {
            bid, ask, bidSize, askSize, ref, logRef, spread, spreadBps, queue, micro, trade,
            volume10, signedVolume10, ofi1, absOfi1, ofi10, absOfi10, trades10, weight10,
            meanLogRef10, meanSpread30, meanQueue1, squares, sampledS, sample, sigma, logSigma
        }) {
            to.putDouble(value);
        }
        for (double[] ring : new double[][] {ring1, ring5, ring30}) {
            for (double value : ring) {
                to.putDouble(value);
            }
        }
        for (long value : new long[] {
            ticks, clock, warmUntil, gapUntil, gapOwed, behind, tradeTs, quoteTs, tradeGap, side,
            bucket1, bucket5, bucket30, volBucket, parked
        }) {
            to.putLong(value);
        }
        for (Numbers ofKind : numbers) {
            ofKind.put(to);
        }
        return to.array();
    }

    static SymbolState fromBytes(byte[] bytes) {
        ByteBuffer from = ByteBuffer.wrap(bytes);
        SymbolState s = new SymbolState();
        s.bid = from.getDouble();
        s.ask = from.getDouble();
        s.bidSize = from.getDouble();
        s.askSize = from.getDouble();
        s.ref = from.getDouble();
        s.logRef = from.getDouble();
        s.spread = from.getDouble();
        s.spreadBps = from.getDouble();
        s.queue = from.getDouble();
        s.micro = from.getDouble();
        s.trade = from.getDouble();
        s.volume10 = from.getDouble();
        s.signedVolume10 = from.getDouble();
        s.ofi1 = from.getDouble();
        s.absOfi1 = from.getDouble();
        s.ofi10 = from.getDouble();
        s.absOfi10 = from.getDouble();
        s.trades10 = from.getDouble();
        s.weight10 = from.getDouble();
        s.meanLogRef10 = from.getDouble();
        s.meanSpread30 = from.getDouble();
        s.meanQueue1 = from.getDouble();
        s.squares = from.getDouble();
        s.sampledS = from.getDouble();
        s.sample = from.getDouble();
        s.sigma = from.getDouble();
        s.logSigma = from.getDouble();
        for (double[] ring : new double[][] {s.ring1, s.ring5, s.ring30}) {
            for (int i = 0; i < BUCKETS; i++) {
                ring[i] = from.getDouble();
            }
        }
        s.ticks = from.getLong();
        s.clock = from.getLong();
        s.warmUntil = from.getLong();
        s.gapUntil = from.getLong();
        s.gapOwed = from.getLong();
        s.behind = from.getLong();
        s.tradeTs = from.getLong();
        s.quoteTs = from.getLong();
        s.tradeGap = from.getLong();
        s.side = from.getLong();
        s.bucket1 = from.getLong();
        s.bucket5 = from.getLong();
        s.bucket30 = from.getLong();
        s.volBucket = from.getLong();
        s.parked = from.getLong();
        for (Numbers ofKind : s.numbers) {
            ofKind.take(from);
        }
        return s;
    }
}
