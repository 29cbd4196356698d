package main

import (
	"fmt"
	"slices"
	"strings"
)

// Columns of the table about failover.
const (
	columnHealthy   = "healthy"
	columnFailsOver = "fails over"
)

// report is all that was measured.
type report struct {
	Tables  []*table `json:"tables"`
	Targets []target `json:"targets"`

	sideBySide, failover, flip, scale *table
}

func newReport() *report {
	r := &report{
		sideBySide: &table{Title: "Side by side", Columns: names(variants), compared: true},
		failover:   &table{Title: "A request that has to fail over", Columns: []string{columnHealthy, columnFailsOver}, compared: true},
		flip:       &table{Title: "The active account begins to refuse (worst round)", Columns: names([]*setup{itself, next})},
		scale:      &table{Title: "Many members, many pools", Columns: []string{itself.name, manyMembers.name, manyPools.name}, compared: true},
	}
	r.Tables = []*table{r.sideBySide, r.failover, r.flip, r.scale}
	return r
}

func names(setups []*setup) []string {
	all := make([]string, len(setups))
	for i, s := range setups {
		all[i] = s.name
	}
	return all
}

// table holds figures by row and column.
type table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []*row   `json:"rows"`

	// compared: the columns after the first are set in relation to it.
	compared bool
}

// row is one figure of one scenario.
type row struct {
	Scenario string               `json:"scenario"`
	Figure   string               `json:"figure"`
	Rounds   map[string][]float64 `json:"rounds"` // by column
}

// add takes in what was measured in a round.
func (t *table) add(scenario, figure, column string, value float64) {
	i := slices.IndexFunc(t.Rows, func(r *row) bool { return r.Scenario == scenario && r.Figure == figure })
	if i < 0 {
		i = len(t.Rows)
		t.Rows = append(t.Rows, &row{scenario, figure, make(map[string][]float64)})
	}
	t.Rows[i].Rounds[column] = append(t.Rows[i].Rounds[column], value)
}

// ratio sets a column in relation to another one, round by round, and returns
// the quartiles of that.
func (r *row) ratio(column, to string) quartiles {
	a, b := r.Rounds[column], r.Rounds[to]
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	return quartilesOf(ratios)
}

// quartiles are the values that a quarter, half and three quarters of all do
// not exceed.
type quartiles struct{ low, median, high float64 }

func quartilesOf(values []float64) quartiles {
	sorted := slices.Sorted(slices.Values(values))
	at := func(part float64) float64 {
		position := part * float64(len(sorted)-1)
		i := int(position)
		j := min(i+1, len(sorted)-1)
		return sorted[i] + (position-float64(i))*(sorted[j]-sorted[i])
	}
	return quartiles{at(0.25), at(0.5), at(0.75)}
}

// markdown writes all that was measured.
func (r *report) markdown() string {
	var b strings.Builder
	for _, t := range r.Tables {
		t.markdown(&b)
	}
	b.WriteString("### Targets\n\n| | got | wanted | |\n|---|---|---|---|\n")
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "| %s | %s | %s %s | %s |\n", t.What, figure(t.Got), t.Sign, figure(t.Wanted), t.verdict())
	}
	return b.String()
}

func (t *table) markdown(b *strings.Builder) {
	if len(t.Rows) == 0 {
		return
	}
	figures := 0
	fmt.Fprintf(b, "### %s\n\n| | |", t.Title)
	for i, column := range t.Columns {
		fmt.Fprintf(b, " %s |", column)
		figures++
		if t.compared && i > 0 {
			b.WriteString(" ratio (quartiles) |")
			figures++
		}
	}
	b.WriteString("\n|---|---|" + strings.Repeat("--:|", figures))
	for _, row := range t.Rows {
		fmt.Fprintf(b, "\n| %s | %s |", row.Scenario, row.Figure)
		for i, column := range t.Columns {
			t.cells(b, row, column, i > 0)
		}
	}
	b.WriteString("\n\n")
}

func (t *table) cells(b *strings.Builder, row *row, column string, further bool) {
	if !t.compared {
		fmt.Fprintf(b, " %s |", figure(slices.Max(row.Rounds[column])))
		return
	}
	fmt.Fprintf(b, " %s |", figure(quartilesOf(row.Rounds[column]).median))
	if further {
		q := row.ratio(column, t.Columns[0])
		fmt.Fprintf(b, " %.3f (%.3f–%.3f) |", q.median, q.low, q.high)
	}
}

// figure writes a value with as many digits as mean something.
func figure(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.1f", v)
	case v >= 10:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}
