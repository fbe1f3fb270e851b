package org.fedsup.trainer;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.ToDoubleFunction;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Makes a latency table from measurements, as tflite/profiling/profile.py does.
 *
 * <p>The cost of a call of the runtime is subtracted from each part and added to the stem, which
 * every subnet has exactly once. The remaining difference between sums of parts and whole subnets
 * is corrected by one factor for inference and one for training. The table reports its error on
 * other subnets.
 *
 * @param parts the measured models
 * @param rows latency of each part, without the cost of a call
 * @param calls cost of a call, for each group
 * @param subnets latency of each whole subnet
 */
record LatencyFit(
        PartModels parts, List<Latency> rows, List<Latency> calls, List<Latency> subnets) {

    /** Returns the table as JSON. */
    String table(String machine) {
        Latency call = new Latency(
                Latency.median(calls.stream().mapToDouble(Latency::infer).toArray()),
                Latency.median(calls.stream().mapToDouble(Latency::train).toArray()));
        List<Latency> table = new ArrayList<>(rows);
        for (int stem : parts.stems) {
            table.set(stem, table.get(stem).plus(call));
        }
        Latency factors = new Latency(factor(table, Latency::infer), factor(table, Latency::train));
        table.replaceAll(row -> row.times(factors));
        long fitted = parts.subnets.stream().filter(PartModels.Subnet::fitted).count();
        String told = String.format(Locale.ROOT,
                "%s; sums of parts times %.3f (infer) and %.3f (train), fitted on %d subnets other "
                        + "than those of the errors",
                machine, factors.infer(), factors.train(), fitted);
        try {
            return new JSONObject()
                    .put("space", parts.space)
                    .put("machine", told)
                    .put("infer", errors(table, Latency::infer, parts.inferBatch))
                    .put("train", errors(table, Latency::train, parts.trainBatch))
                    .put("rows", json(table))
                    .toString(1);
        } catch (JSONException notFinite) {
            throw new IllegalStateException(notFinite); // Times are finite.
        }
    }

    private JSONArray json(List<Latency> table) throws JSONException {
        JSONArray lines = new JSONArray();
        for (PartModels.Group group : parts.groups) {
            for (JSONObject part : group.rows()) {
                Latency latency = table.get(lines.length());
                lines.put(new JSONObject(part.toString())
                        .put("infer_ms", latency.infer()).put("train_ms", latency.train()));
            }
        }
        return lines;
    }

    /** Returns the latency of a subnet as the sum of its parts. */
    private double said(List<Latency> table, PartModels.Subnet subnet, ToDoubleFunction<Latency> kind) {
        double sum = 0;
        for (int row : subnet.rows()) {
            sum += kind.applyAsDouble(table.get(row));
        }
        return sum;
    }

    /** Returns measured latency over sum of parts, of each subnet that is fitted or that is not. */
    private double[] ratios(List<Latency> table, ToDoubleFunction<Latency> kind, boolean fitted) {
        List<Double> ratios = new ArrayList<>();
        for (int number = 0; number < subnets.size(); number++) {
            PartModels.Subnet subnet = parts.subnets.get(number);
            if (subnet.fitted() == fitted) {
                ratios.add(kind.applyAsDouble(subnets.get(number)) / said(table, subnet, kind));
            }
        }
        return ratios.stream().mapToDouble(Double::doubleValue).toArray();
    }

    /** Returns the geometric mean of the ratios, or 1 if there are none. */
    private double factor(List<Latency> table, ToDoubleFunction<Latency> kind) {
        double[] ratios = ratios(table, kind, true);
        double logarithms = 0;
        for (double ratio : ratios) {
            logarithms += Math.log(ratio);
        }
        return Math.exp(logarithms / Math.max(1, ratios.length));
    }

    private JSONObject errors(List<Latency> table, ToDoubleFunction<Latency> kind, int batch)
            throws JSONException {
        double[] errors = ratios(table, kind, false);
        double largest = 0;
        for (int place = 0; place < errors.length; place++) {
            errors[place] = Math.abs(1 / errors[place] - 1);
            largest = Math.max(largest, errors[place]);
        }
        return new JSONObject()
                .put("batch_size", batch)
                .put("threads", parts.threads)
                .put("subnets", errors.length)
                .put("median_error", Latency.median(errors))
                .put("largest_error", largest);
    }
}
