package tickwise.bench;

import com.fasterxml.jackson.annotation.JsonAutoDetect;
import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import org.apache.kafka.common.errors.SerializationException;

/** One trade or quote. What does not apply to it is NaN, or 0 for the side; {@code seq} is -1 where none is given. */
@JsonAutoDetect(fieldVisibility = JsonAutoDetect.Visibility.NONE)
@JsonIgnoreProperties(ignoreUnknown = true)
final class Tick {
    private static final ObjectMapper JSON = new ObjectMapper();

    boolean isTrade;
    @JsonProperty String symbol;
    @JsonProperty long ts;
    @JsonProperty double price = Double.NaN;
    @JsonProperty double size = Double.NaN;
    @JsonProperty double bid = Double.NaN;
    @JsonProperty double ask = Double.NaN;
    @JsonProperty("bid_size") double bidSize = Double.NaN;
    @JsonProperty("ask_size") double askSize = Double.NaN;
    int side;
    long seq = -1;

    @JsonProperty("type")
    void setType(String type) {
        isTrade = type.equals("trade");
        if (!isTrade && !type.equals("quote")) {
            throw new IllegalArgumentException("type is " + type);
        }
    }

    @JsonProperty("side")
    void setSide(String text) {
        side = text == null ? 0 : switch (text) {
            case "buy", "1" -> 1;
            case "sell", "-1" -> -1;
            case "0" -> 0;
            default -> throw new IllegalArgumentException("side is " + text);
        };
    }

    @JsonProperty("seq")
    void setSeq(Long number) {
        seq = number == null ? -1 : number;
    }

    /** Reads any JSON that says a tick; throws SerializationException where it says none. */
    static Tick read(byte[] json) {
        try {
            Tick tick = JSON.readValue(json, Tick.class);
            boolean right = tick.symbol != null && tick.ts > 0 && (tick.isTrade
                    ? tick.price > 0 && tick.size > 0
                    : tick.bid > 0 && tick.bid <= tick.ask && tick.bidSize > 0 && tick.askSize > 0);
            if (right) {
                return tick;
            }
            throw new SerializationException("a field is missing or out of range");
        } catch (IOException error) {
            throw new SerializationException(error);
        }
    }
}
