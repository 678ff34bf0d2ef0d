package tickwise.bench;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;

/** The ONNX model, run by one thread, a row at a time or in batches. */
final class Model implements AutoCloseable {
    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private final OrtSession session;
    private final String input;
    private final String output;

    Model(String path) throws Exception {
        OrtSession.SessionOptions options = new OrtSession.SessionOptions();
        options.setIntraOpNumThreads(1);
        options.setInterOpNumThreads(1);
        options.setExecutionMode(OrtSession.SessionOptions.ExecutionMode.SEQUENTIAL);
        session = environment.createSession(path, options);
        input = session.getInputNames().iterator().next();
        output = session.getOutputNames().iterator().next();
        checkContract(session.getMetadata().getCustomMetadata().get("tickwise.contract"));
    }

    /** The model names its features and hashes them with all that changes a value; other features are refused. */
    private static void checkContract(String text) throws Exception {
        if (text == null) {
            throw new IllegalArgumentException("the model carries no contract");
        }
        JsonNode contract = new ObjectMapper().readTree(text);
        List<String> lines = new ArrayList<>(SymbolState.FEATURES);
        lines.addAll(List.of(
                "kernel=4", "gap=" + SymbolState.GAP_NS, "max_age=" + SymbolState.MAX_AGE_NS, "rows_on=quote+trade"));
        byte[] hash = MessageDigest.getInstance("SHA-256")
                .digest(String.join("\n", lines).getBytes(StandardCharsets.UTF_8));
        String ours = HexFormat.of().formatHex(hash).substring(0, 16);
        if (!ours.equals(contract.path("feature_hash").asText()) || contract.path("window").asInt() != 1) {
            throw new IllegalArgumentException("the model takes other features than " + lines + ": " + text);
        }
    }

    /** The score of one row. */
    float score(float[] x) {
        long[] shape = {1, 1, SymbolState.WIDTH};
        try (OnnxTensor tensor = OnnxTensor.createTensor(environment, FloatBuffer.wrap(x), shape);
                OrtSession.Result result = session.run(Map.of(input, tensor))) {
            return ((float[][]) result.get(0).getValue())[0][0];
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Room for {@code rows} rows whose tensors are made once and used by every call. */
    Batch batch(int rows) throws OrtException {
        return new Batch(rows);
    }

    final class Batch implements AutoCloseable {
        final int rows;
        private final FloatBuffer x;
        private final FloatBuffer y;
        private final OnnxTensor xTensor;
        private final OnnxTensor yTensor;
        private final Map<String, OnnxTensor> inputs;
        private final Map<String, OnnxValue> outputs;

        private Batch(int rows) throws OrtException {
            this.rows = rows;
            x = floats(rows * SymbolState.WIDTH);
            y = floats(rows);
            xTensor = OnnxTensor.createTensor(environment, x, new long[] {rows, 1, SymbolState.WIDTH});
            yTensor = OnnxTensor.createTensor(environment, y, new long[] {rows, 1});
            inputs = Map.of(input, xTensor);
            outputs = Map.of(output, yTensor);
        }

        /** Scores the first {@code count} rows of {@code values}; the rows after them are left as they were. */
        void score(float[] values, int count, float[] scores) {
            x.put(0, values, 0, count * SymbolState.WIDTH);
            try (OrtSession.Result result = session.run(inputs, outputs)) {
                y.get(0, scores, 0, count);
            } catch (OrtException error) {
                throw new IllegalStateException(error);
            }
        }

        private static FloatBuffer floats(int count) {
            return ByteBuffer.allocateDirect(count * Float.BYTES).order(ByteOrder.nativeOrder()).asFloatBuffer();
        }

        @Override
        public void close() {
            xTensor.close();
            yTensor.close();
        }
    }

    @Override
    public void close() throws OrtException {
        session.close();
    }
}
