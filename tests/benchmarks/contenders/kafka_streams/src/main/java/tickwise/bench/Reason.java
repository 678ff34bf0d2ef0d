package tickwise.bench;

/** Why a row has no score: of several reasons the first. */
final class Reason {
    private Reason() {}

    /** The reason of a row with these flags and this score, or null where it has a score. */
    static String of(int flags, float score) {
        if (flags == 0) {
            return Float.isFinite(score) ? null : "no_score";
        }
        if ((flags & SymbolState.NO_PRICE) != 0) {
            return "no_price";
        }
        if ((flags & SymbolState.WARM_UP) != 0) {
            return "warm_up";
        }
        if ((flags & SymbolState.GAP) != 0) {
            return "gap";
        }
        if ((flags & SymbolState.STALE) != 0) {
            return "stale";
        }
        return (flags & SymbolState.LATE) != 0 ? "late" : "ahead";
    }
}
